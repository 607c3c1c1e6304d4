"""`pillion generate`: an answer with its labels, streamed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pillion.cli.app import (
    AllowMismatch,
    Device,
    Dtype,
    Json,
    Model,
    app,
    check_template,
    print_json,
)
from pillion.cli.output import as_json as verdict_json


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What the user says.")],
    probe: Annotated[
        list[str] | None, typer.Option("--probe", help="Folder of a probe; may be repeated.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Limit of the answer.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Share of probability drawn from.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    template: Annotated[str, typer.Option(help="raw or chat.")] = "chat",
    model: Model = "embedded",
    dtype: Dtype = "auto",
    device: Device = "auto",
    allow_mismatch: AllowMismatch = False,
    as_json: Json = False,
) -> None:
    """Answer a prompt; verdicts of the prompt come first, running ones follow the tokens."""
    from pillion.cli.streaming import show_answer
    from pillion.runtime import LanguageModel, Sampling, resolve

    artefacts = [resolve(folder) for folder in probe or []]
    sampling = Sampling(temperature, top_p, seed)
    how = check_template(template) or "chat"
    language_model = LanguageModel.load(model, dtype, device)
    stream = language_model.stream(
        prompt, artefacts, max_tokens, sampling, how, allow_mismatch=allow_mismatch
    )
    if not as_json:
        show_answer(stream, artefacts)
        return
    for _ in stream:
        pass
    assert stream.result is not None
    done = stream.result
    several = {a.name for a in artefacts if a.card.task == "multilabel"}

    def verdicts(of: Any) -> dict[str, Any]:
        return {name: verdict_json(v, name in several) for name, v in of.items()}

    print_json(
        {
            "text": done.text,
            "num_tokens": len(done.token_ids),
            "finish_reason": done.finish_reason,
            "prompt": verdicts(done.prompt),
            "response": verdicts(done.response),
            "seconds": dict(done.seconds),
        }
    )
