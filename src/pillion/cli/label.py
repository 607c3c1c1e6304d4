"""`pillion label`: soft labels for rows that have none, by a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pillion.cli.app import app, print_json
from pillion.cli.app import out as console
from pillion.cli.failures import all_failed, finish, write_failed
from pillion.cli.options import SOURCES, EngineOptions, Json, Without, takes_options
from pillion.cli.output import write_lines
from pillion.cli.places import check_file, clear
from pillion.cli.progress import progress_bar
from pillion.cli.rows import TextOptions
from pillion.core import FailedRow, Text, defaults
from pillion.core.lines import json_line
from pillion.errors import ConfigError

if TYPE_CHECKING:
    from pillion.labelling import Judge

SOFT_LABELS = "soft_labels"
"""Column that is written; verbs that read rows know it by this name."""


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """What the judge is asked, and how."""

    labels: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Labels to ask about; one alone gets its opposite beside it. Default: all that a "
            "probe or classifier has.",
        ),
    ] = None
    judge_model: Annotated[str | None, typer.Option(help="Name of the model at the server.")] = None
    question: Annotated[
        str | None,
        typer.Option(
            help="What the server is asked, to answer with yes or no; {label} stands for the label."
        ),
    ] = None
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds the server's key.")
    ] = None
    parallel: Annotated[
        int, typer.Option(min=1, help="Requests that the server works on at once.")
    ] = defaults.PARALLEL

    @property
    def named(self) -> list[str]:
        """The labels, one by one."""
        return [one.strip() for one in (self.labels or "").split(",") if one.strip()]


@app.command()
@takes_options
def label(
    data: Annotated[str, typer.Option(help=f"Texts without labels: {SOURCES}.")],
    judge: Annotated[
        str,
        typer.Option(
            metavar="URL|DIR|NAME",
            help="An OpenAI-compatible server (http://host/v1), the folder of a probe, or a text "
            "classifier of transformers (a folder or hub name).",
        ),
    ],
    out: Annotated[Path, typer.Option(help="File for the rows with their labels: .jsonl.")],
    asked: JudgeOptions,
    how: TextOptions,
    engine: Annotated[EngineOptions, Without("exact", "allow_mismatch")],
    as_json: Json = False,
) -> None:
    """Let a judge label rows that have no labels, to train on.

    Writes one JSON object a row: the text (or messages) and soft_labels, label -> probability,
    which pillion train learns from. Rows that failed are left out and listed in NAME.failed.jsonl
    beside --out; the exit code is then 1. The same command run again asks only what has no answer
    yet.
    """
    from pillion.labelling import Journal, label_texts

    check_file(out, "--out", data)
    labeller = _judge(judge, asked, engine)
    texts = how.texts(data)
    work = out.absolute().with_name(f".{out.name}.work")
    with progress_bar("rows") as bar:
        answers = label_texts(
            labeller,
            texts.texts,
            Journal(work, labeller.key),
            lambda done, all_: bar("label", done, all_),
        )
    told = [one for one in answers if one is not None]
    failed = all_failed(
        texts, [FailedRow(one.place + 1, one.reason) for one in told if one.probs is None]
    )
    kept = [(texts.texts[one.place], one.probs) for one in told if one.probs is not None]
    write_lines(_lines([(text, probs) for text, probs in kept if text is not None]), out)
    side_file = out.with_name(f"{out.stem}.failed.jsonl")
    write_failed(failed, texts, side_file)
    if not failed:
        clear(work)
    if as_json:
        facts = {
            "out": str(out),
            "labels": labeller.labels,
            "rows": len(kept),
            "failed": len(failed),
        }
        print_json(facts)
    else:
        console.print(f"{len(kept):,} rows with {', '.join(labeller.labels)} in {out}.")
    finish(failed, texts, f"their reasons are in {side_file}", how.skip_bad_rows)


def _judge(judge: str, asked: JudgeOptions, engine: EngineOptions) -> Judge:
    """The judge that an address, a folder or a model names."""
    if judge.startswith(("http://", "https://")):
        if engine != EngineOptions():
            raise ConfigError(
                f"--judge {judge} runs its own model; leave out --model, --dtype, --device and "
                "--on-too-long. Its model is named by --judge-model."
            )
        return _server(judge, asked)
    if any(one is not None for one in (asked.judge_model, asked.question, asked.api_key_env)):
        raise ConfigError(
            f"--judge {judge} is no server; leave out --judge-model, --question and --api-key-env."
        )
    return _model(judge, asked.named, engine)


def _server(url: str, asked: JudgeOptions) -> Judge:
    from pydantic import ValidationError

    from pillion.labelling import ServerJudge
    from pillion.policies import JudgeServer as Server

    model, question, labels = asked.judge_model, asked.question, asked.named
    if model is None:
        raise ConfigError(f"--judge {url} serves models by name; give --judge-model NAME.")
    if not labels:
        raise ConfigError("A server has no labels of its own; give --labels A,B.")
    if question is not None and "{label}" not in question:
        raise ConfigError(
            "--question has no {label} in it, where the label is to stand; put it in."
        )
    try:
        server = Server(url=url, model=model, api_key_env=asked.api_key_env)
    except ValidationError as error:
        raise ConfigError(f"--judge {url} is no URL of a server; write http://host/v1.") from error
    if question is not None:
        server = server.model_copy(update={"question": question})
    return ServerJudge(server, labels, asked.parallel)


def _model(judge: str, labels: Sequence[str], engine: EngineOptions) -> Judge:
    from pillion.labelling import ClassifierJudge, ProbeJudge
    from pillion.probe import Artefact

    if not (Path(judge) / "card.json").exists():
        classifier = ClassifierJudge(judge, labels)
        if engine != EngineOptions():
            raise ConfigError(
                f"--judge {judge} is a classifier, run as it is on the CPU; leave out --model, "
                "--dtype, --device and --on-too-long."
            )
        return classifier
    artefact = Artefact.load(judge)
    return ProbeJudge(engine.load(), artefact, labels, engine.on_too_long)


def _lines(rows: Sequence[tuple[Text, object]]) -> list[str]:
    """A JSON object a row; where one row is a conversation all are written as such."""
    from pillion.data.examples import plain_turns

    all_text = all(isinstance(text, str) for text, _ in rows)
    found: list[str] = []
    for text, probs in rows:
        turns = [{"role": "user", "content": text}] if isinstance(text, str) else plain_turns(text)
        said = {"text": text} if all_text else {"messages": turns}
        found.append(json_line({**said, SOFT_LABELS: probs}))
    return found
