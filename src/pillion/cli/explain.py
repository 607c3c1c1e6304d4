"""`pillion explain`: why a verdict is what it is, token by token and layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.text import Text

from pillion.cli.app import app, out, print_json
from pillion.cli.failures import usable
from pillion.cli.options import EngineOptions, Json, Without, takes_options
from pillion.cli.output import write_lines
from pillion.cli.places import check_file
from pillion.cli.progress import progress_bar
from pillion.cli.rows import RowOptions
from pillion.cli.talk import asked as what_is_asked
from pillion.core import Template
from pillion.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from pillion.runtime import Explanation

BARS = " ▁▂▃▄▅▆▇█"
TOP_TOKENS, TOP_LABELS = 8, 4
SEEN = 0.0005
"""What shows at three decimals."""
FOR, AGAINST = (31, 95, 168), (196, 84, 28)


@dataclass(frozen=True, kw_only=True)
class AskedOptions:
    """What is explained: a text, a conversation, or labelled rows."""

    text: Annotated[str | None, typer.Option(help="One text to explain the verdict of.")] = None
    messages: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Turns before --text, or up to the last: a JSON list of messages."
        ),
    ] = None
    data: Annotated[
        str | None,
        typer.Option(help="Labelled texts instead: layer profiles of right and wrong items."),
    ] = None

    def __post_init__(self) -> None:
        if (self.text is None and self.messages is None) == (self.data is None):
            raise ConfigError(
                f"Got {'neither texts nor' if self.data is None else 'texts beside'} --data; "
                "give either --text or --data. --messages goes with --text, or alone."
            )


@dataclass(frozen=True, kw_only=True)
class ShownOptions:
    """What is shown of it, and where."""

    label: Annotated[
        str | None, typer.Option(help="Explain this label's logit; default: the verdict's.")
    ] = None
    png: Annotated[
        Path | None, typer.Option(help="Draw layers and tokens (or profiles): a PNG file.")
    ] = None
    html: Annotated[
        Path | None, typer.Option(help="Write a page of one file, for --text only.")
    ] = None
    template: Annotated[
        Template | None, typer.Option(help="How a text is wrapped; default: as in training.")
    ] = None
    template_tokens: Annotated[
        bool,
        typer.Option("--template-tokens", help="Show the chat template's tokens too, of --text."),
    ] = False

    def check(self, asked: AskedOptions) -> None:
        """Returns if all of it can be shown.

        Raises:
            ConfigError: something is of one text, and rows are explained; or a place that cannot be
                written.
        """
        of_text = (self.html, self.label, self.template, self.template_tokens or None)
        if asked.data is not None and any(one is not None for one in of_text):
            raise ConfigError(
                "--html, --label, --template and --template-tokens go with --text; leave them out "
                "with --data."
            )
        check_file(self.png, "--png", asked.data, asked.messages)
        check_file(self.html, "--html", asked.messages)


@app.command()
@takes_options
def explain(
    probe: Annotated[str, typer.Option(metavar="DIR", help="Folder of a trained probe.")],
    asked: AskedOptions,
    how: RowOptions,
    shown: ShownOptions,
    engine: Annotated[EngineOptions, Without("exact")],
    as_json: Json = False,
) -> None:
    """Show why a verdict is what it is.

    For one text: what each token at each layer added to the logit of each label. For gates,
    poolings and mean attention this is exact: the sum of all, plus the bias, is the logit. For
    other probes it is gradient times input, marked as approximate. For labelled data: what each
    layer added in items that came out right and wrong, class by class.
    """
    from pillion.runtime import checked
    from pillion.runtime import explain as explained

    shown.check(asked)
    model, label = engine.load(), shown.label
    artefact = checked(model.backend, probe, engine.allow_mismatch)
    if asked.data is not None:
        source, long = (asked.data, how), engine.on_too_long
        return _profiles(model, artefact, source, long, shown.png, as_json)
    if label is not None and label not in artefact.card.labels:
        raise unknown_name("label", label, artefact.card.labels)
    found = explained(
        model,
        artefact,
        what_is_asked(asked.text, asked.messages, None),
        shown.template,
        engine.on_too_long,
        engine.allow_mismatch,
    )
    _write(found, shown)
    if as_json:
        return print_json(found.as_json())
    _show(found, label or _shown_label(found), shown.template_tokens)


def _shown_label(found: Explanation) -> str:
    """The verdict's label; for a multi-label verdict its likeliest."""
    if found.verdict.label in found.verdict.probs:
        return found.verdict.label
    return max(found.verdict.probs, key=found.verdict.probs.__getitem__)


def _write(found: Explanation, shown: ShownOptions) -> None:
    from pillion.report.explanation import explanation_page, plot_explanation

    with_template = shown.template_tokens
    if shown.png is not None:
        wanted = shown.label or _shown_label(found)
        label = wanted if wanted in found.labels else found.labels[0]
        plot_explanation(found.as_json(), label, shown.png, with_template)
    if shown.html is not None:
        page = explanation_page(found.as_json(), with_template)
        write_lines(page.splitlines(), shown.html)


def _show(found: Explanation, label: str, template: bool) -> None:
    """The text in colours, a bar a layer, the tokens that added most."""
    values = found.to(label)
    by_token, by_layer, places = values.sum(0), values.sum(1), found.places(template)
    likeliest = sorted(found.verdict.probs.items(), key=lambda one: -one[1])[:TOP_LABELS]
    out.print(f"{found.verdict.probe}: {found.verdict.label or 'none'}")
    out.print("  " + "  ".join(f"{name} {prob:.3f}" for name, prob in likeliest))
    out.print(f"logit of {label}{' over the mean of all labels' if found.softmax else ''}")
    how = "exact" if found.exact else f"{found.method}, approximate"
    out.print(
        f"  {found.logit(label):+.3f} = tokens {by_token.sum():+.3f} "
        f"and {'bias' if found.exact else 'rest'} {found.rest_of(label):+.3f} ({how})"
    )
    hidden = by_token.sum() - by_token[places].sum()
    if len(places) < len(by_token) and abs(hidden) >= SEEN:
        out.print(f"  the template's tokens added {hidden:+.3f} of it (--template-tokens)")
    out.print()
    most = float(np.abs(by_token[places]).max(initial=0.0))
    for title, part in parts_of(found, template):
        line = heat_line(found.tokens[part], by_token[part], most)
        out.print(Text(f"{title:<10} ", "bold") + line if title else line)
    out.print(f"\nlayers {found.layers[0]} to {found.layers[-1]}  {bars(by_layer)}")
    for token in sorted(places, key=lambda place: -abs(by_token[place]))[:TOP_TOKENS]:
        name = found.tokens[token] or f"⟨{found.token_ids[token]}⟩"
        layer = found.layers[int(np.abs(values[:, token]).argmax())]
        out.print(f"{by_token[token]:+8.3f}  {(name.strip() or name)!r}, most at layer {layer}")


def parts_of(found: Explanation, template: bool = False) -> list[tuple[str, slice]]:
    """Who speaks and which tokens, a turn each; all tokens where the template's are wanted."""
    if template or not found.segments:
        return [("", slice(0, len(found.tokens)))]
    return [
        (s.role if s.kind == "content" else s.kind, slice(s.begin, s.end)) for s in found.segments
    ]


def heat_line(tokens: tuple[str, ...], values: np.ndarray, most: float = 0.0) -> Text:
    """The text with a background a token: blue speaks for the label, orange against it.

    Args:
        tokens: of the text.
        values: what each added.
        most: the largest of a whole that this is a part of; 0 for that of these tokens.
    """
    line, most = Text(), most or float(np.abs(values).max(initial=0.0)) or 1.0
    for token, value in zip(tokens, values.tolist(), strict=True):
        share = abs(value) / most
        red, green, blue = (round(c * share) for c in (FOR if value > 0 else AGAINST))
        line.append(token, f"on rgb({red},{green},{blue})" if share > 0.05 else "")
    return line


def bars(values: np.ndarray) -> str:
    """A character a value: its height is its share of the largest; below zero it is a dot."""
    most = float(np.abs(values).max()) or 1.0
    heights = (values / most * (len(BARS) - 1)).round().astype(int)
    return "".join("·" if height < 0 else BARS[height] for height in heights.tolist())


def _profiles(
    model: Any,
    artefact: Any,
    source: tuple[str, RowOptions],
    on_too_long: Any,
    png: Path | None,
    as_json: bool,
) -> None:
    """Layer profiles of a data set."""
    from pillion.evals import Labelled, layer_profiles
    from pillion.runtime import encode_rows

    data, how = source
    card, labelled = artefact.card, Labelled.of(artefact.card, how.rows(data))
    labelled = usable(labelled, artefact, model.backend, on_too_long, how.skip_bad_rows, png)
    rows, targets = labelled.rows, labelled.targets
    tokens = encode_rows(model.backend, rows.texts, card.template, on_too_long, scopes=[card.scope])
    with progress_bar() as bar:
        found = layer_profiles(model, artefact, tokens, targets, partial(bar))
    found["data_sha256"] = rows.sha256
    if png is not None:
        from pillion.report.explanation import plot_profiles

        plot_profiles(found, png)
    if as_json:
        return print_json(found)
    _show_profiles(found)


def _show_profiles(found: dict[str, Any]) -> None:
    """A line a label and outcome, a bar a layer."""
    for name, one in found["classes"].items():
        for kind in ("correct", "wrong"):
            if one[kind]["rows"]:
                shown = bars(np.array(one[kind]["to_true"]))
                out.print(f"{name:<16} {kind:<8} {one[kind]['rows']:>6} rows  {shown}")
    out.print(f"layers {found['layers'][0]} to {found['layers'][-1]}: what each added to the label")
