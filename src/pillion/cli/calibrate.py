"""`pillion calibrate`: probabilities that mean what they say, and where to decide."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pillion.cli.app import (
    SEED_MAX,
    AllowMismatch,
    Device,
    Dtype,
    Json,
    Model,
    Placed,
    TooLong,
    app,
    err,
    out,
    print_json,
)
from pillion.cli.failures import say_own_rows, usable
from pillion.cli.places import check_probe_folder
from pillion.cli.progress import progress_bar
from pillion.cli.rows import USUAL_ROWS, RowOptions, takes_rows
from pillion.core.extras import require
from pillion.errors import ConfigError

COSTS = ("cost_of_errors_alone", "cost_of_errors", "cost_of_escalation")
MAX_LABELS = 20
"""Labels whose lines are printed."""


@app.command()
@takes_rows
def calibrate(
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
    method: Annotated[
        Literal["temperature", "platt", "isotonic", "none"],
        typer.Option(help="How logits become probabilities; temperature keeps their ranking."),
    ] = "temperature",
    best_f1: Annotated[bool, typer.Option("--best-f1", help="Threshold of best F1.")] = False,
    target_fpr: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Threshold of this false positive rate, such as 0.01; of a probe of responses the "
            "share of harmless answers that are ever stopped.",
        ),
    ] = None,
    target_precision: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Threshold of this precision.")
    ] = None,
    cost_fp: Annotated[
        float | None, typer.Option(metavar="COST", help="Of a wrong label; with --cost-fn.")
    ] = None,
    cost_fn: Annotated[
        float | None, typer.Option(metavar="COST", help="Of a missed label; with --cost-fp.")
    ] = None,
    abstain: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE|LOW,HIGH",
            help="Leave a share of the texts undecided, those nearest to the threshold (0.08), or "
            "those with a probability in a band (0.2,0.7).",
        ),
    ] = None,
    target_fnr: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="A lower threshold, of this false negative rate; between it and that of "
            "--target-fpr texts are left undecided.",
        ),
    ] = None,
    cost_escalation: Annotated[
        float | None,
        typer.Option(
            metavar="COST",
            help="Of handing an undecided text on; with --cost-fp it chooses the band.",
        ),
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Add sets of labels that hold the true one this often, as 0.9."
        ),
    ] = None,
    exit: Annotated[
        float | None,
        typer.Option(
            "--exit",
            metavar="SHARE",
            help="Let texts that are only classified leave at a depth where the probe is sure: at "
            "most this share is then decided otherwise, as 0.01. Takes a probe with depths.",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            metavar="DEPTHS",
            help="With --exit: so many depths in a row that decide alike let a text leave too.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=SEED_MAX, help="Of folds and resamples.")] = 0,
    how: RowOptions = USUAL_ROWS,
    contexts: Placed = "none",
    model: Model = "embedded",
    dtype: Dtype = "auto",
    device: Device = "auto",
    on_too_long: TooLong = "error",
    allow_mismatch: AllowMismatch = False,
    as_json: Json = False,
) -> None:
    """Calibrate a probe and choose where it decides.

    Fits the calibration on labelled texts, keeps it where log-loss and Brier score of left-out rows
    are better for it, and chooses thresholds, a band to abstain in and prediction sets as asked.
    All of it is kept on the probe's card, and predict, generate and serve go by it. Without a wish
    for thresholds the decisions stay as they are.
    """
    from pillion.data import contexts_of
    from pillion.evals import (
        CalibrationSettings,
        ExitWish,
        Labelled,
        Operating,
        check_exit,
        check_wishes,
        choose_exit,
        depth_logits,
        in_contexts,
        largest_probs,
        notes_of,
        probs_of,
        raw_artefact,
        score,
    )
    from pillion.evals import calibrate as choose
    from pillion.runtime import LanguageModel, resolve
    from pillion.sharing import is_url

    operating = Operating(
        best_f1=best_f1,
        target_fpr=target_fpr,
        target_fnr=target_fnr,
        target_precision=target_precision,
        cost_fp=cost_fp,
        cost_fn=cost_fn,
        cost_escalation=cost_escalation,
        **_abstain(abstain),
    )
    if coverage is not None:
        require("mapie", "--coverage")
    settings = CalibrationSettings(method, operating, coverage, seed)
    leaving = _exit_wish(ExitWish, exit, method, patience, seed)
    if out_folder is None and is_url(probe):
        raise ConfigError(f"--probe {probe} is not of this machine; give --out for the new one.")
    artefact = resolve(probe)
    target = Path(probe) if out_folder is None else out_folder
    check_probe_folder(target)
    operating.check(artefact.card.task)
    before = contexts_of(contexts)
    labelled = Labelled.of(artefact.card, how.rows(data))
    say_own_rows(artefact.card, labelled)
    check_wishes(artefact.card, labelled.targets, method, operating)
    if leaving is not None:
        check_exit(artefact.card, leaving, len(labelled.targets), coverage)
    raw = raw_artefact(artefact)
    language_model = LanguageModel.load(model, dtype, device)
    skip = how.skip_bad_rows
    labelled = usable(labelled, artefact, language_model.backend, on_too_long, skip, target)
    if before is not None:
        labelled = in_contexts(language_model, raw.card, labelled, before, "some", seed, err.print)
    with progress_bar() as bar:
        scored = score(
            language_model,
            raw,
            labelled,
            on_too_long=on_too_long,
            progress=partial(bar, "calibrate"),
            allow_mismatch=allow_mismatch,
        )
    probs = probs_of(raw.card, scored.verdicts)
    largest = None if scored.running is None else largest_probs(scored.running)
    revised, found = choose(artefact, probs, labelled.targets, settings, labelled.facts, largest)
    if leaving is not None:
        with progress_bar() as bar:
            logits = depth_logits(
                language_model,
                raw,
                labelled,
                on_too_long,
                partial(bar, "calibrate"),
                allow_mismatch,
            )
        revised = choose_exit(revised, logits, labelled.targets, leaving, labelled.facts)
    elif artefact.card.exit is not None:
        err.print(
            "The probe's exits were chosen beside other decisions, and are gone; ask for new ones."
        )
    revised.save(target)
    lines = [one["threshold"] for one in found["thresholds"]]
    for note in notes_of(artefact.card, labelled.targets, lines, data):
        err.print(note)
    _show({"out": str(target), **found, **_numbers(revised.card)}, as_json)


def _exit_wish(wish: Any, share: float | None, method: str, patience: int | None, seed: int) -> Any:
    """What is wanted of the exits; None for none."""
    if share is not None:
        return wish(share, method, patience, seed)
    if patience is not None:
        raise ConfigError("--patience is a rule of exits; give --exit too, such as --exit 0.01.")
    return None


def _abstain(words: str | None) -> dict[str, Any]:
    """A share, or the two ends of a band."""
    if words is None:
        return {}
    try:
        numbers = tuple(float(word) for word in words.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) == 1:
        return {"abstain_share": numbers[0]}
    if len(numbers) == 2:
        return {"abstain_band": numbers}
    raise ConfigError(
        f"--abstain is {words!r}; give a share of the texts, such as 0.08, or a band of "
        "probabilities, such as 0.2,0.7."
    )


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
    out.print(f"{'':<18}{'before':>10}{'after':>10}   (after: on rows left out of the fit)")
    for name, before in found["before"].items():
        out.print(f"  {name:<16}{_number(before):>10}{_number(found['after'][name]):>10}")
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
