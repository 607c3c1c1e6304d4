"""What a training run is told: how long, in which batches, and which configurations.

Frozen and strict; knows no data and no model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from pillion.core import defaults
from pillion.core.strict import UNKNOWN, Strict, first_fault
from pillion.errors import ConfigError, unknown_name
from pillion.probe import aggregator, make_settings
from pillion.train.prefixes import Weighing

AUTO = "auto"
"""In the place of a probe's name: the choice of `choose_probe`."""

ROWS_THAT_CHOOSE = 50
"""Fewer validation rows say more about themselves than about which epoch is best."""


LEAST_RATE = 1e-8
"""AdamW moves a weight by about its rate: what is less moves none that fp32 can tell."""
MOST_RATE = 10.0
MOST_DECAY = 100.0
"""A step takes rate times decay of a weight away; of more than twice itself it grows."""
SEEDS = 2**43
"""Seeds end before this on either side of 0: a step draws by its seed times 1,000,003, in int64."""


class _SentenceErrors(Strict):
    """What it refuses is told in a sentence, as Python's callers give it by name."""

    @model_validator(mode="wrap")
    @classmethod
    def _in_a_sentence(cls, value: Any, check: Callable[[Any], Any]) -> Any:
        try:
            return check(value)
        except ValidationError as error:
            fault = first_fault(error)
            if fault.kind == UNKNOWN:
                raise unknown_name("setting", fault.place, cls.model_fields) from error
            raise ConfigError(f"{fault.place} is {fault.value!r}: {fault.message}.") from error


class TrainSettings(_SentenceErrors):
    """What all configurations of a run share.

    Attributes:
        epochs: passes over the training rows, at most.
        longest: a configuration whose last epoch is its best is trained anew for twice as many
            epochs, up to this and while it gains a hundredth, and keeps whichever scores better;
            None: for `epochs` alone.
        batch_size: rows a step; None: 32, or 8 where there are few rows and so would be few steps.
        warmup: share of all steps in which the learning rate rises; a cosine to 0 follows.
        patience: epochs without a better validation score after which a configuration stops; None:
            it has all of its epochs, since what it gains comes with the last and smallest steps.
        keep: the weights of the `best` epoch, by validation rows, or of the `last`.
        class_weights: `balanced` makes every label count the same.
        order_seed: of the order of the rows.
        max_tokens: padded tokens that are held at once; longer batches are split, exactly.
        prefixes: learn from prefixes of a row, too: `uniform` or `softmax`, see
            `pillion.train.prefixes`; `none` from whole rows; None: the default of the trainer.
        depths: layers up to which the probe learns to be read out, too, rising and below its last;
            what calls that only classify may stop at.
        refit: learn once more, from training and validation rows together, for as many epochs as
            were best; what is said of validation rows is said by the probe before that.

    Raises:
        ConfigError: an unknown setting, or a value that does not fit.
    """

    epochs: int = Field(default=defaults.EPOCHS, ge=1, le=1000)
    longest: int | None = Field(default=None, ge=1, le=1000)
    batch_size: int | None = Field(default=None, ge=1)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    patience: int | None = Field(default=None, ge=1)
    keep: Literal["best", "last"] = "best"
    class_weights: Literal["none", "balanced"] = "none"
    order_seed: int = Field(default=0, ge=0)
    max_tokens: int = Field(default=4096, ge=1)
    prefixes: Weighing | None = None
    depths: tuple[int, ...] = ()
    refit: bool = False

    def rows_a_step(self, num_rows: int) -> int:
        """The batch size for so many training rows."""
        is_few = num_rows < defaults.FEW_ROWS
        return self.batch_size or (defaults.STEP_ROWS_OF_FEW if is_few else defaults.STEP_ROWS)

    def for_rows(self, num_rows: int, num_held: int) -> TrainSettings:
        """Where no number of epochs is given: how many suit the rows.

        Few rows are gone over as often as reads `VISITS` of them. Validation rows then say whether
        more epochs are better, up to `LONGEST`; fewer of them than `ROWS_THAT_CHOOSE` choose
        neither that nor the best epoch: the last one counts. (`VISITS` and `LONGEST` are of
        `pillion.core.defaults`.)

        Args:
            num_rows: to learn from.
            num_held: to validate on.
        """
        if "epochs" in self.model_fields_set:
            return self
        epochs = max(self.epochs, -(-defaults.VISITS // num_rows))
        is_given = "keep" in self.model_fields_set
        keep = self.keep if is_given or num_held >= ROWS_THAT_CHOOSE else "last"
        usual = {"keep": keep, "longest": defaults.LONGEST if keep == "best" else None}
        usual = {name: own for name, own in usual.items() if name not in self.model_fields_set}
        return self.model_copy(update={"epochs": epochs, **usual})


class ProbeConfig(_SentenceErrors):
    """One configuration: a probe and how its weights are moved.

    Attributes:
        probe: a name of `pillion.probe.AGGREGATORS`, or `auto`.
        settings: of that probe, on top of what the name stands for.
        learning_rate: the highest one; None: the probe's own default.
        weight_decay: of AdamW; what keeps a probe of few rows from learning them by heart.
        seed: of the initial weights and of what is dropped.

    Raises:
        ConfigError: an unknown probe or setting, or a value that does not fit.
    """

    probe: str = defaults.KIND
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    learning_rate: float | None = Field(default=None, gt=0, le=MOST_RATE)
    weight_decay: float = Field(default=0.5, ge=0, le=MOST_DECAY)
    seed: int = Field(default=0, gt=-SEEDS, lt=SEEDS)

    @field_validator("probe")
    @classmethod
    def _known(cls, probe: str) -> str:
        if probe != AUTO:
            aggregator(probe)
        return probe

    @field_validator("learning_rate")
    @classmethod
    def _moves(cls, rate: float | None) -> float | None:
        if rate is not None and rate < LEAST_RATE:
            raise ValueError(f"so small a rate moves no weight; give one from {LEAST_RATE:g} on")
        return rate

    def model_post_init(self, _context: Any) -> None:
        """Refuses settings that the probe does not take.

        Raises:
            ConfigError: naming the setting.
        """
        if self.probe != AUTO:
            make_settings(self.probe, **self.settings)
        elif self.settings or self.learning_rate is not None or self._decays:
            raise ConfigError(
                "Probe 'auto' chooses among probes with their own settings, rates and decays; give "
                "it none."
            )

    @property
    def _decays(self) -> bool:
        """Whether another weight decay than the default was given."""
        return self.weight_decay != ProbeConfig.model_fields["weight_decay"].default

    @property
    def rate(self) -> float:
        """The highest learning rate, the probe's default if none was given."""
        return self.learning_rate or aggregator(self.probe).learning_rate

    def at_batch(self, batch_size: int) -> ProbeConfig:
        """This configuration with its rate settled: a default rate is for steps of 32 rows.

        Smaller batches are noisier: the rate shrinks in proportion.
        """
        if self.learning_rate is not None:
            return self
        return self.model_copy(
            update={"learning_rate": self.rate * min(1.0, batch_size / defaults.STEP_ROWS)}
        )


def require_configs(configs: list[ProbeConfig]) -> None:
    """Refuses a run without a configuration.

    Raises:
        ConfigError: there is none.
    """
    if not configs:
        raise ConfigError("Got no probe to train; give at least one configuration.")
