"""`pillion generate`: an answer with its labels, streamed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from pillion.cli.app import (
    SEED_MAX,
    AllowMismatch,
    Device,
    Dtype,
    Exact,
    Json,
    Model,
    app,
    dtype_of,
    print_json,
)
from pillion.cli.talk import asked
from pillion.core import Template, verdicts_json
from pillion.errors import ConfigError


@app.command()
def generate(
    prompt: Annotated[str | None, typer.Argument(help="What the user says.")] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(
            "--probe", metavar="DIR", help="Folder of a trained probe; repeat it for several."
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 128,
    temperature: Annotated[
        float, typer.Option(min=0, help="0 takes the likeliest token; more is more varied.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(help="Draw from the likeliest tokens of this total probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=SEED_MAX, help="Of the draws.")] = 0,
    messages: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Earlier turns: a JSON list of messages with role and content; - reads them from "
            "standard input. Without PROMPT the last one is answered.",
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="A system prompt.")] = None,
    template: Annotated[
        Template | None,
        typer.Option(
            help="How the prompt is wrapped; default: as the (first) probe was trained, else by "
            "the chat template, if the model has one."
        ),
    ] = None,
    model: Model = "embedded",
    dtype: Dtype = "auto",
    exact: Exact = False,
    device: Device = "auto",
    allow_mismatch: AllowMismatch = False,
    as_json: Json = False,
) -> None:
    """Answer a prompt or turns, with verdicts from the same passes.

    The verdicts of the prompt come first, of the turns that each probe reads. Under each line of
    the answer stands a bar for every token: the running probability of a label of the answer.
    """
    from pillion.cli.streaming import show_answer
    from pillion.runtime import LanguageModel, Sampling, resolve

    text = asked(prompt, messages, system)
    artefacts = [resolve(folder) for folder in probe or []]
    sampling = Sampling(temperature, top_p, seed)
    language_model = LanguageModel.load(model, dtype_of(dtype, exact), device)
    _check_room(max_tokens, language_model.backend.identity.context_tokens)
    if template is None and artefacts and isinstance(text, str):
        template = artefacts[0].card.template
    stream = language_model.stream(
        text, artefacts, max_tokens, sampling, template, allow_mismatch=allow_mismatch
    )
    if not as_json:
        show_answer(stream, artefacts)
        return
    for _ in stream:
        pass
    print_json(_facts(stream.result, artefacts))


def _check_room(max_tokens: int, window: int) -> None:
    if max_tokens >= window:
        raise ConfigError(
            f"--max-tokens is {max_tokens:,}, but this model takes {window:,} tokens, the prompt's "
            "among them; give less."
        )


def _facts(done: Any, artefacts: Sequence[Any]) -> dict[str, Any]:
    several = {a.name for a in artefacts if a.card.task == "multilabel"}

    return {
        "text": done.text,
        "num_tokens": len(done.token_ids),
        "finish_reason": done.finish_reason,
        "prompt": verdicts_json(done.prompt, several, done.absences),
        "response": verdicts_json(done.response, several),
        "seconds": dict(done.seconds),
    }
