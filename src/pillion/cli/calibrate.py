"""`pillion calibrate`: probabilities that mean what they say, and where to decide."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pillion.cli.app import app, err, out, print_json
from pillion.cli.calibrate_options import WishOptions
from pillion.cli.failures import say_own_rows, usable
from pillion.cli.options import EngineOptions, Json, Placed, Without, takes_options
from pillion.cli.places import check_probe_folder
from pillion.cli.progress import progress_bar
from pillion.cli.rows import RowOptions
from pillion.cli.scoring import scored
from pillion.core import defaults
from pillion.errors import ConfigError

if TYPE_CHECKING:
    from pillion.data import Rows
    from pillion.evals import CalibrationSettings, ExitWish, Labelled
    from pillion.probe import Artefact, Card
    from pillion.runtime import LanguageModel

COSTS = ("cost_of_errors_alone", "cost_of_errors", "cost_of_escalation")
DECIDING = ("best_f1", "target_fpr", "target_precision", "cost_fp", "abstain_share")
"""Wishes that rows choose thresholds or bands by."""
MAX_LABELS = 20
"""Labels whose lines are printed."""


@app.command()
@takes_options
def calibrate(
    *,
    probe: Annotated[str, typer.Option(metavar="DIR", help="Folder of a trained probe.")],
    data: Annotated[
        str,
        typer.Option(
            help="Labelled texts that the probe was not trained on: Parquet, CSV, JSON Lines or "
            "hf:NAME[:SPLIT]."
        ),
    ],
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the calibrated probe; default: --probe itself."),
    ] = None,
    wishes: WishOptions,
    how: RowOptions,
    contexts: Placed = defaults.CONTEXTS,
    engine: Annotated[EngineOptions, Without("exact")],
    as_json: Json = False,
) -> None:
    """Calibrate a probe and choose where it decides.

    Fits the calibration on labelled texts, keeps it only if it improves log-loss and Brier score of
    left-out rows, and chooses thresholds, a band to abstain in and prediction sets as asked. The
    probe's card keeps all of it, and predict, generate and serve follow the card. Without an option
    for thresholds the decisions stay as they are.
    """
    from pillion.data import contexts_of
    from pillion.evals import calibrate as choose
    from pillion.evals import in_contexts, largest_probs, notes_of, probs_of, raw_artefact

    settings, leaving = wishes.settings(), wishes.leaving()
    artefact, target = _opened(probe, out_folder)
    settings.operating.check(artefact.card.task)
    before = contexts_of(contexts)
    labelled = _checked(artefact.card, how.rows(data), settings, leaving)
    raw, model = raw_artefact(artefact), engine.load()
    long, skip = engine.on_too_long, how.skip_bad_rows
    labelled = usable(labelled, artefact, model.backend, long, skip, target)
    if before is not None:
        seed = settings.seed
        labelled = in_contexts(model, raw.card, labelled, before, "some", seed, err.print)
    told = scored(model, raw, labelled, engine, "calibrate")
    probs, targets = probs_of(raw.card, told.verdicts), labelled.targets
    largest = None if told.running is None else largest_probs(told.running)
    revised, found = choose(artefact, probs, targets, settings, labelled.facts, largest)
    if leaving is not None:
        revised = _with_exits(revised, raw, model, labelled, leaving, engine)
    elif artefact.card.exit is not None:
        err.print(
            "The probe's exits were chosen beside other decisions, and are gone; ask for new ones."
        )
    revised.save(target)
    lines = [one["threshold"] for one in found["thresholds"]]
    for note in notes_of(artefact.card, targets, lines, data):
        err.print(note)
    _show({"out": str(target), **found, **_numbers(revised.card)}, as_json)


def _opened(probe: str, out_folder: Path | None) -> tuple[Artefact, Path]:
    """The probe, and the folder that the calibrated one goes to.

    Raises:
        ConfigError: it cannot go there.
    """
    from pillion.runtime import resolve
    from pillion.sharing import is_url

    if out_folder is None and is_url(probe):
        raise ConfigError(f"--probe {probe} is not of this machine; give --out for the new one.")
    artefact = resolve(probe)
    target = Path(probe) if out_folder is None else out_folder
    check_probe_folder(target)
    return artefact, target


def _checked(
    card: Card, rows: Rows, settings: CalibrationSettings, leaving: ExitWish | None
) -> Labelled:
    """The rows as the probe's labels have them; what is wanted can be chosen by them."""
    from pillion.evals import Labelled, check_exit, check_wishes

    labelled = Labelled.of(card, rows)
    say_own_rows(card, labelled)
    check_wishes(card, labelled.targets, settings.method, settings.operating)
    if leaving is not None:
        check_exit(card, leaving, len(labelled.targets), settings.coverage)
    return labelled


def _with_exits(
    revised: Artefact,
    raw: Artefact,
    model: LanguageModel,
    labelled: Labelled,
    leaving: ExitWish,
    engine: EngineOptions,
) -> Artefact:
    """The calibrated probe with the depths at which texts leave."""
    from pillion.evals import choose_exit, depth_logits

    with progress_bar() as bar:
        told, long = partial(bar, "calibrate"), engine.on_too_long
        logits = depth_logits(model, raw, labelled, long, told, engine.allow_mismatch)
    return choose_exit(revised, logits, labelled.targets, leaving, labelled.facts)


def _numbers(card: Any) -> dict[str, Any]:
    """What the card now holds, under its own keys."""
    content = card.model_dump(mode="json")
    return {name: content[name] for name in ("calibration", "abstain", "conformal", "exit")}


def _show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return print_json(found)
    out.print(f"{found['data']['num_rows']:,} rows of {found['data']['path']}, {found['method']}")
    if found["comparison"] is not None:
        out.print(_compared(found["comparison"]))
    _show_metrics(found)
    if found["rates_of"] != "whole rows":
        out.print("rates: of the largest score that an answer has after any of its tokens")
    for line in found["thresholds"][:MAX_LABELS]:
        out.print(
            f"{line['label']}: threshold {_spread(line, 'threshold')}, "
            + ", ".join(f"{rate} {_spread(line, rate)}" for rate in ("fpr", "recall", "precision"))
        )
    if len(found["thresholds"]) > MAX_LABELS:
        out.print(f"... and {len(found['thresholds']) - MAX_LABELS} more labels (--json has all)")
    if found["escalation"] is not None:
        _show_escalation(found["escalation"])
    if found["conformal"] is not None:
        sets = found["conformal"]
        out.print(f"prediction sets: coverage {sets['coverage']:g}, from {sets['limit']:.4f} on")
    if found["exit"] is not None:
        _show_exit(found["exit"])
    out.print(f"Saved in {found['out']}.")


def _show_metrics(found: dict[str, Any]) -> None:
    out.print(f"{'':<18}{'before':>10}{'after':>10}   (after: on rows left out of the fit)")
    if any(name in found["wishes"] for name in DECIDING):
        out.print(
            "accuracy, F1 and rates: at thresholds or bands that were chosen on all these rows"
        )
    for name, before in found["before"].items():
        out.print(f"  {name:<16}{_number(before):>10}{_number(found['after'][name]):>10}")


def _compared(found: dict[str, Any]) -> str:
    """Which probabilities are kept, and by how much."""
    present, new = found["present"], found["new"]
    scores = (
        f"log-loss {new['log_loss']:.4f} for {present['log_loss']:.4f}, "
        f"Brier score {new['brier']:.4f} for {present['brier']:.4f}"
    )
    kept = found["kept"] == "new"
    what = "better on left-out rows, and kept" if kept else "no better on left-out rows: not kept"
    return f"{found['method']} is {what}:\n  {scores}"


def _show_escalation(found: dict[str, Any]) -> None:
    decided = found["decided"]
    out.print(
        f"left undecided: {_spread(found, 'share')} of the rows; of the others accuracy "
        f"{_number(decided['accuracy'])}, F1 {_number(decided['f1'])}"
    )
    costs = [f"{name.replace('_', ' ')} {_number(found[name])}" for name in COSTS if name in found]
    if costs:
        out.print("a row: " + ", ".join(costs))


def _show_exit(exit: dict[str, Any]) -> None:
    found = exit["found"]
    left = ", ".join(f"{count:,} at {depth}" for depth, count in found["left_at"].items())
    f1 = [_number(found[which]["f1"]) for which in ("at_full_depth", "with_exits")]
    out.print(
        f"exits: on rows left out of the choice {found['differing']:.4f} of the decisions differ "
        f"(at most {found['differing_at_most']:.4f}, with {found['confidence']:.0%} confidence); "
        f"F1 {f1[1]} for {f1[0]}\n"
        f"  texts leave at layers: {left}; {found['share_of_layers']:.0%} of all layers are run"
    )


def _spread(found: dict[str, Any], name: str) -> str:
    around = found[f"{name}_interval"]
    where = f" [{around[0]:.4f}, {around[1]:.4f}]" if around else ""
    return _number(found[name]) + where


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
