"""The options of `pillion calibrate` that say what is wanted, and the wishes that they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pillion.cli.options import SEED_MAX
from pillion.core import defaults
from pillion.core.extras import require
from pillion.errors import ConfigError

if TYPE_CHECKING:
    from pillion.evals import CalibrationSettings, ExitWish, Operating


@dataclass(frozen=True, kw_only=True)
class WishOptions:
    """What probabilities shall mean, and where the probe shall decide."""

    method: Annotated[
        Literal["temperature", "platt", "isotonic", "none"],
        typer.Option(help="How logits become probabilities; temperature keeps their ranking."),
    ] = defaults.CALIBRATION
    best_f1: Annotated[bool, typer.Option("--best-f1", help="Threshold of best F1.")] = False
    target_fpr: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Threshold of this false positive rate, such as 0.01; of a probe of responses the "
            "share of harmless answers that are ever stopped.",
        ),
    ] = None
    target_precision: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Threshold of this precision.")
    ] = None
    cost_fp: Annotated[
        float | None, typer.Option(metavar="COST", help="Cost of a wrong label; with --cost-fn.")
    ] = None
    cost_fn: Annotated[
        float | None, typer.Option(metavar="COST", help="Cost of a missed label; with --cost-fp.")
    ] = None
    abstain: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE|LOW,HIGH",
            help="Leave a share of the texts undecided, those nearest to the threshold (0.08), or "
            "those with a probability in a band (0.2,0.7).",
        ),
    ] = None
    target_fnr: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="A lower threshold, of this false negative rate; between it and that of "
            "--target-fpr texts are left undecided.",
        ),
    ] = None
    cost_escalation: Annotated[
        float | None,
        typer.Option(
            metavar="COST",
            help="Cost of handing on an undecided text; with --cost-fp it chooses the band.",
        ),
    ] = None
    coverage: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Add sets of labels that hold the true one this often, such as 0.9.",
        ),
    ] = None
    exit: Annotated[
        float | None,
        typer.Option(
            "--exit",
            metavar="SHARE",
            help="Let texts that are only classified leave at a depth where the probe is sure: at "
            "most this share is then decided otherwise, as 0.01. Takes a probe with depths.",
        ),
    ] = None
    patience: Annotated[
        int | None,
        typer.Option(
            metavar="DEPTHS",
            help="With --exit: so many depths in a row that decide alike let a text leave too.",
        ),
    ] = None
    seed: Annotated[int, typer.Option(min=0, max=SEED_MAX, help="Seed of folds and resamples.")] = 0

    def settings(self) -> CalibrationSettings:
        """What is wanted of the decisions.

        Raises:
            ConfigError: wishes out of range, or that contradict each other.
        """
        from pillion.evals import CalibrationSettings

        operating = self._operating()
        if self.coverage is not None:
            require("mapie", "--coverage")
        return CalibrationSettings(self.method, operating, self.coverage, self.seed)

    def leaving(self) -> ExitWish | None:
        """What is wanted of the exits; None for none.

        Raises:
            ConfigError: a share or patience out of range, or patience without exits.
        """
        from pillion.evals import ExitWish

        if self.exit is not None:
            return ExitWish(self.exit, self.method, self.patience, self.seed)
        if self.patience is not None:
            raise ConfigError(
                "--patience is a rule of exits; give --exit too, such as --exit 0.01."
            )
        return None

    def _operating(self) -> Operating:
        from pillion.evals import Operating

        return Operating(
            best_f1=self.best_f1,
            target_fpr=self.target_fpr,
            target_fnr=self.target_fnr,
            target_precision=self.target_precision,
            cost_fp=self.cost_fp,
            cost_fn=self.cost_fn,
            cost_escalation=self.cost_escalation,
            **_abstain(self.abstain),
        )


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
