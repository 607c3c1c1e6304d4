"""`pillion demo`: trains the bundled example probes, then answers prompts with their verdicts.

What `make run` does: the whole of pillion in a minute, on the embedded model.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pillion.cli.app import app, out, print_json
from pillion.cli.options import Json, Model
from pillion.cli.places import work_folder
from pillion.cli.progress import Bar, progress_bar
from pillion.core import defaults
from pillion.errors import ArtefactError, StorageError

PROMPTS = (
    "My parcel was promised for Monday and it is still not here. Where is it?",
    "Write a nasty note about my coworker so that everyone laughs at her.",
    "I just wanted to say that your support team saved my week. Thank you!",
)
MAX_TOKENS = 24
PAIRS = 7
"""Runs with and without probes, in turns, for the cost line."""


@app.command()
def demo(model: Model = defaults.MODEL, as_json: Json = False) -> None:
    """See pillion at work, in about a minute.

    Trains four example probes (once), three of prompts and one of answers, then answers a few
    prompts with their verdicts and measures what the probes cost.
    """
    clock = Clock()
    from pillion.cli.streaming import show_answer
    from pillion.runtime import LanguageModel

    say = _quiet if as_json else out.print
    with clock("load the model"):
        language_model = LanguageModel.load(model)
    with clock("train the probes"), progress_bar() as bar:
        probes = [_probe(language_model, name, bar, say) for name in _example_names()]
    answers: list[Any] = []
    with clock("answer"):
        for prompt in PROMPTS:
            say(f"\n> {prompt}")
            stream = language_model.stream(prompt, probes, MAX_TOKENS)
            answers.append(_drain(stream) if as_json else show_answer(stream, probes))
    with clock("measure the cost"):
        cost = _cost(language_model, probes)
    if as_json:
        return print_json(_facts(probes, answers, cost, clock))
    out.print(f"\n{clock.line()}; {_cost_line(cost, len(probes))}")
    out.print(
        "Next: pillion train --data YOUR.csv --out my-probe, "
        "then pillion generate --probe my-probe 'a prompt'",
    )


@dataclass
class Clock:
    """Measures the seconds that each stage of the demo takes, as a context manager."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])
    stage: str = ""
    began: float = 0.0

    def __call__(self, stage: str) -> Clock:
        """The stage that the next `with` block is."""
        self.stage = stage
        return self

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.stage] = time.perf_counter() - self.began

    def line(self) -> str:
        """All stages in one line."""
        return "Time: " + ", ".join(f"{name} {s:.1f} s" for name, s in self.seconds.items())


def _quiet(_: str) -> None:
    """Says nothing."""


def _drain(stream: Any) -> Any:
    for _ in stream:
        pass
    return stream.result


def _example_names() -> Sequence[str]:
    from pillion.examples import NAMES

    return NAMES


def _probe(model: Any, name: str, bar: Bar, say: Any) -> Any:
    """An example's probe, from the user's cache if it was trained just so before."""
    from pillion.backends.gguf import cache_root
    from pillion.examples import load_example
    from pillion.probe import Artefact
    from pillion.train import ProbeConfig, TrainSettings

    config, settings = ProbeConfig(), TrainSettings(epochs=6)
    rows = load_example(name, "train")
    recipe = repr((config, settings, rows.sha256, model.backend.identity)).encode()
    folder = cache_root() / "demo" / hashlib.sha256(recipe).hexdigest()[:12] / name
    try:
        return Artefact.load(folder)
    except ArtefactError:
        artefact = _train(model, rows, config, settings, folder, bar)
    held_out = _held_out(model, artefact, load_example(name, "heldout"))
    say(
        f"Trained {name:<10} on {len(rows)} rows: held-out accuracy {held_out['accuracy']:.3f}, "
        f"F1 {held_out['f1']:.3f} ({len(artefact.card.labels)} labels)"
    )
    return artefact


def _train(model: Any, rows: Any, config: Any, settings: Any, folder: Path, bar: Bar) -> Any:
    from pillion.fit import FitSettings, fit
    from pillion.probe import Artefact

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder.parent} cannot be made ({error.strerror}); name a folder that you may write "
            "in by PILLION_CACHE."
        ) from error
    with work_folder(folder) as work:
        fitted = fit(model, rows, None, [config], work, FitSettings(train=settings), bar, _quiet)
        fitted[0].artefact.save(folder)
    return Artefact.load(folder)


def _held_out(model: Any, artefact: Any, rows: Any) -> dict[str, Any]:
    from pillion.data import LabelSpace
    from pillion.evals import measure

    targets = LabelSpace(artefact.card.labels, artefact.card.task).encode(rows.labels)
    verdicts = [row[artefact.name] for row in model.score(rows.texts, [artefact])]
    return measure(artefact.card, verdicts, targets)


def _cost(model: Any, probes: Sequence[Any]) -> dict[str, float]:
    """Medians of what the probes add, measured in turns against the bare model."""
    runs: dict[str, list[float]] = {"first_token": [], "token": []}
    prompt, tokens = " ".join(PROMPTS), 8
    model.generate(prompt, probes, tokens)  # warm
    for _ in range(PAIRS):
        bare, ridden = (model.generate(prompt, p, tokens).seconds for p in ((), probes))
        runs["first_token"].append(ridden["first_token"] / bare["first_token"])
        per_token = [s["total"] - s["first_token"] for s in (ridden, bare)]
        runs["token"].append(per_token[0] / per_token[1])
    return {name: statistics.median(ratios) for name, ratios in runs.items()}


def _cost_line(cost: dict[str, float], num_probes: int) -> str:
    return (
        f"{num_probes} probes against the bare model: time to first token "
        f"x{cost['first_token']:.2f}, time per token x{cost['token']:.2f}"
    )


def _facts(probes: Any, answers: Any, cost: dict[str, float], clock: Clock) -> dict[str, Any]:
    from pillion.core import verdict_json

    return {
        "probes": {p.name: p.card.metrics for p in probes},
        "answers": [
            {
                "prompt": prompt,
                "text": answer.text,
                "prompt_verdicts": {n: verdict_json(v) for n, v in answer.prompt.items()},
                "response_verdicts": {n: verdict_json(v) for n, v in answer.response.items()},
            }
            for prompt, answer in zip(PROMPTS, answers, strict=True)
        ],
        "cost": cost,
        "seconds": clock.seconds,
    }
