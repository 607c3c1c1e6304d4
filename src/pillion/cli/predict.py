"""`pillion predict`: labels for texts, one JSON line a row, in input order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pillion.cli.app import Device, Dtype, Model, Probes, TextColumnName, TooLong, app, progress_bar
from pillion.core import Verdict
from pillion.errors import ConfigError


@app.command()
def predict(
    probe: Probes,
    text: Annotated[str | None, typer.Option(help="One text.")] = None,
    input: Annotated[
        Path | None, typer.Option(help="Parquet, CSV or JSON Lines with a text column.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write here instead of printing.")] = None,
    text_column: TextColumnName = "text",
    template: Annotated[
        str | None, typer.Option(help="raw or chat; by default as the probe was trained.")
    ] = None,
    model: Model = "embedded",
    dtype: Dtype = "auto",
    device: Device = "auto",
    on_too_long: TooLong = "error",
    json_lines: Annotated[bool, typer.Option("--json", help="Always so: JSON Lines.")] = True,
) -> None:
    """Label texts: one JSON line a row with `label` and `probs`; several probes in one pass."""
    from pillion.cli.files import write_lines

    from pillion.data import read_rows
    from pillion.runtime import LanguageModel, resolve

    if (text is None) == (input is None):
        raise ConfigError("Give either --text or --input, and not both.")
    texts = [text] if text is not None else list(read_rows(str(input), text_column, None).texts)
    artefacts = [resolve(folder) for folder in probe]
    language_model = LanguageModel.load(model, dtype, device)
    with progress_bar() as bar:
        seen = 0

        def progress(tokens: int, total: int) -> None:
            nonlocal seen
            seen += tokens
            bar("predict", seen, total)

        rows = language_model.score(texts, artefacts, _template(template), on_too_long, progress)
    lines = [json.dumps(as_line(verdicts), ensure_ascii=False) for verdicts in rows]
    write_lines(lines, out)


def as_line(verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    """What is printed of a row: the first probe's verdict, and all of them if there are several."""
    named = {name: as_json(verdict) for name, verdict in verdicts.items()}
    first = next(iter(named.values()))
    return first if len(named) == 1 else {**first, "verdicts": named}


def as_json(verdict: Verdict, multilabel: bool | None = None) -> dict[str, Any]:
    """A verdict as JSON: `label` (a list for a multi-label probe), `probs`, `threshold`."""
    several = len(verdict.labels) != 1 if multilabel is None else multilabel
    label = list(verdict.labels) if several else verdict.label
    return {"label": label, "probs": dict(verdict.probs), "threshold": verdict.threshold}


def _template(name: str | None) -> Any:
    if name not in (None, "raw", "chat"):
        raise ConfigError(f"--template is {name!r}; it is raw or chat.")
    return name
