"""`pillion generate`: an answer with its labels, streamed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from pillion.cli.app import app, print_json
from pillion.cli.options import SEED_MAX, EngineOptions, Json, Without, takes_options
from pillion.cli.talk import asked
from pillion.core import Template, defaults, verdicts_json
from pillion.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """How long an answer is, and how its tokens are drawn."""

    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = (
        defaults.ANSWER_TOKENS
    )
    temperature: Annotated[
        float, typer.Option(min=0, help="0 takes the likeliest token; more is more varied.")
    ] = defaults.TEMPERATURE
    top_p: Annotated[
        float, typer.Option(help="Draw from the likeliest tokens of this total probability.")
    ] = defaults.TOP_P
    seed: Annotated[int, typer.Option(min=0, max=SEED_MAX, help="Seed of the draws.")] = 0


@dataclass(frozen=True, kw_only=True)
class TurnOptions:
    """What stands before the prompt, and around it."""

    messages: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Earlier turns: a JSON list of messages with role and content; - reads them from "
            "standard input. Without PROMPT the last one is answered.",
        ),
    ] = None
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="A system prompt.")] = None
    template: Annotated[
        Template | None,
        typer.Option(
            help="How the prompt is wrapped; default: as the probes were trained, else by the "
            "chat template, if the model has one."
        ),
    ] = None


@app.command()
@takes_options
def generate(
    *,
    prompt: Annotated[str | None, typer.Argument(help="What the user says.")] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="Folder of a trained probe; repeat it for several."),
    ] = None,
    answer: AnswerOptions,
    turns: TurnOptions,
    engine: Annotated[EngineOptions, Without("on_too_long")],
    as_json: Json = False,
) -> None:
    """Answer a prompt or a chat, with verdicts from the same passes.

    Verdicts on the prompt come first, each on the turns that its probe reads. Under each line of
    the answer stands a bar for every token: the running probability of a label of the answer.
    """
    from pillion.cli.streaming import show_answer
    from pillion.runtime import Sampling, resolve, shared_template

    text, max_tokens = asked(prompt, turns.messages, turns.system), answer.max_tokens
    artefacts = [resolve(folder) for folder in probe or []]
    sampling = Sampling(answer.temperature, answer.top_p, answer.seed)
    model, template = engine.load(), turns.template
    _check_room(max_tokens, model.backend.identity.context_tokens)
    if template is None and artefacts and isinstance(text, str):
        template = shared_template(artefacts)
    allowed = engine.allow_mismatch
    stream = model.stream(text, artefacts, max_tokens, sampling, template, allow_mismatch=allowed)
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
