"""The card of a saved probe: what it is, what it was trained on, which model it belongs to.

Promises that a card is complete and consistent, and that one which is not is refused in a sentence.
It holds no text of the training data. Does not know where it lies on disk, nor the weights' values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import PurePath
from platform import python_version
from typing import Any, Literal, cast

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator
from torch import Tensor

from pillion.core import ModelIdentity, Scope, Shape, Template
from pillion.core.strict import UNKNOWN, Strict, first_fault, sentence
from pillion.errors import ArtefactError, ConfigError, unknown_name
from pillion.probe.calibration import Affine, Calibration, Isotonic
from pillion.probe.canaries import Canaries
from pillion.probe.decisions import Band, Conformal
from pillion.probe.exit import Exit, ExitRead
from pillion.probe.network import NetworkSettings
from pillion.probe.registry import aggregator, current_settings, make_settings
from pillion.probe.task import Task, num_outputs

FORMAT = 2
"""Number of the card's format that this pillion writes; it reads those before, too."""


class LabelRows(Strict):
    """Training and validation rows that have a label."""

    label: str
    train: int = Field(ge=0)
    validation: int = Field(ge=0)


class TrainingSet(Strict):
    """One of several sets that a probe was trained on together.

    Attributes:
        name: its own among the sets.
        path: name of the file or folder.
        sha256: of the file.
        num_rows: of the set, validation rows among them where no others were given.
        labels: on which its rows were judged; on others they counted in no loss.
        renamed: label of the file -> label of the probe.
        weight: its share of the loss; None: what its rows make of it.
    """

    name: str
    path: str
    sha256: str
    num_rows: int = Field(ge=0)
    labels: tuple[str, ...]
    renamed: dict[str, str] = Field(default_factory=dict[str, str])
    weight: float | None = None


class TrainingData(Strict):
    """Which data a probe was trained on, without a word of it.

    Attributes:
        sha256: of the data file.
        path: the file's name; folders are cut off.
        num_rows: rows used for training.
        split: how they were chosen, such as `train` or `80/20`.
        validation_sha256: of the validation file; None if its rows came from the same file.
        labels: rows of each label.
        notes: what was found out of the table, and what makes its numbers say little.
        writings: share of the texts in each language or script, as far as it can be told; none on
            cards from before it was.
        sets: those that were joined; none where there was one.
    """

    sha256: str
    path: str
    num_rows: int = Field(ge=0)
    split: str
    validation_sha256: str | None = None
    labels: tuple[LabelRows, ...] = ()
    notes: tuple[str, ...] = ()
    writings: dict[str, float] = Field(default_factory=dict[str, float])
    sets: tuple[TrainingSet, ...] = ()

    @field_validator("path")
    @classmethod
    def _file_name(cls, path: str) -> str:
        return PurePath(path).name


class TensorSpec(Strict):
    """Shape and dtype of one tensor of the weights, such as (576, 1) and `float32`."""

    shape: tuple[int, ...]
    dtype: str


class Card(Strict):
    """Everything about a saved probe but its weights.

    Attributes:
        format: of the card itself.
        probe: a name of `AGGREGATORS`.
        settings: of the aggregator, every one of them, so that a later default changes nothing.
        task: what the logits mean.
        labels: (negative, positive) for a binary task, else one name a logit.
        layers: the layers it reads, 0 (embeddings) to the model's last, routers counted on behind
            it, in the weights' order.
        depths: those of them up to which it has learnt to be read out, too, below the last.
        template: how a text was wrapped.
        scope: which segments of a conversation it reads; cards of format 1 read all tokens.
        model: which model the states came from.
        thresholds: one for a binary task, one a label for a multi-label one; None means 0.5.
        calibration: how logits become probabilities; None for the plain sigmoid or softmax.
        abstain: a band of probabilities an output, in which the probe does not decide; None if it
            always does.
        conformal: how the set of labels that a text may have is made; None if there is none.
        exit: at which depths texts leave that are only classified; None if all read every layer.
        decisions: how calibration, thresholds, bands and sets were chosen, on which rows, and what
            they gave there; None if training chose the thresholds.
        canaries: short texts with what the probe said of them when it was trained; None on cards
            from before there were any.
        data: what it was trained on.
        seed: of the initial weights and of the order of the rows.
        training: learning rate, epochs, batch size and the like.
        metrics: name -> number; None where it is not defined.
        versions: of pillion, torch, transformers and python.
        tensors: name -> shape and dtype of the weights.
        weights_sha256: of the file that holds the weights.
    """

    format: Literal[2] = FORMAT
    probe: str
    settings: dict[str, Any]
    task: Task
    labels: tuple[str, ...]
    layers: tuple[int, ...]
    depths: tuple[int, ...] = ()
    template: Template
    scope: Scope = "all"
    model: ModelIdentity
    thresholds: tuple[float, ...] | None = None
    calibration: Calibration | None = None
    abstain: tuple[Band, ...] | None = None
    conformal: Conformal | None = None
    exit: Exit | None = None
    decisions: dict[str, JsonValue] | None = None
    canaries: Canaries | None = None
    data: TrainingData
    seed: int
    training: dict[str, JsonValue]
    metrics: dict[str, float | None]
    versions: dict[str, str]
    tensors: dict[str, TensorSpec]
    weights_sha256: str

    @property
    def shape(self) -> Shape:
        """What the probe's network reads, and how many logits it says."""
        return Shape(len(self.layers), self.model.dim, num_outputs(self.task, len(self.labels)))

    @property
    def aggregator_settings(self) -> NetworkSettings:
        """The settings as the aggregator takes them."""
        return make_settings(self.probe, **self.settings)

    @property
    def learnt_from(self) -> tuple[str, ...]:
        """SHA-256 of the files that taught it: of each set, and of validation rows learnt from."""
        held = self.data.validation_sha256 if self.training.get("refit") else None
        sets = (one.sha256 for one in self.data.sets)
        return (self.data.sha256, *sets, *([] if held is None else [held]))

    @property
    def chosen_on(self) -> tuple[str, ...]:
        """SHA-256 of the rows that its calibration and its decisions were chosen on."""
        known: dict[str, Any] = self.decisions or {}
        both = known.get("data", {}).get("sha256"), known.get("fitted_on")
        return tuple(one for one in both if one is not None)

    @field_validator("probe")
    @classmethod
    def _registered(cls, probe: str) -> str:
        aggregator(probe)
        return probe

    @model_validator(mode="after")
    def _complete(self) -> Card:
        # Validation has made this dictionary: no caller holds it.
        self.settings.update(self.aggregator_settings.model_dump())
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Card:
        faults = (
            *(self._label_fault(), self._threshold_fault(), self._layer_fault()),
            *(self._scope_fault(), self._canary_fault()),
            *(self._depth_fault(), self._exit_fault()),
            *(self._calibration_fault(), self._band_fault(), self._conformal_fault()),
        )
        for fault in faults:
            if fault:
                raise ValueError(fault)
        return self

    def _label_fault(self) -> str:
        got = f"labels {list(self.labels)} do not fit a {self.task} task"
        if self.task == "binary" and len(self.labels) != 2:
            return f"{got}, which has two: (negative, positive)"
        if len(self.labels) < (1 if self.task == "multilabel" else 2):
            return f"{got}, which needs more of them"
        return f"{got}: a name is given twice" if _repeats(self.labels) else ""

    def _threshold_fault(self) -> str:
        if self.thresholds is None:
            return ""
        got = f"thresholds {list(self.thresholds)} do not fit a {self.task} task"
        if self.task == "multiclass":
            return f"{got}, where the largest probability decides"
        if len(self.thresholds) != self.shape.num_outputs:
            return f"{got}, which has {self.shape.num_outputs}"
        return "" if all(0 <= t <= 1 for t in self.thresholds) else f"{got}: 0 to 1 are meant"

    def _calibration_fault(self) -> str:
        if self.calibration is None:
            return ""
        outputs = self.shape.num_outputs
        fault = self.calibration.fault(self.task, outputs)
        wanted = f"{self.calibration.method} of {outputs} outputs"
        return f"calibration: {fault} do not fit {wanted} of a {self.task} task" if fault else ""

    def _band_fault(self) -> str:
        if self.abstain is None:
            return ""
        got = f"bands to abstain in {[list(band) for band in self.abstain]}"
        if len(self.abstain) != self.shape.num_outputs:
            return f"{got} do not fit a {self.task} task, which has {self.shape.num_outputs}"
        fits = all(0 <= low <= high <= 1 for low, high in self.abstain)
        return "" if fits else f"{got}: from low to high, within 0 to 1, is meant"

    def _conformal_fault(self) -> str:
        wanted = "recall" if self.task == "multilabel" else "lac"
        if self.conformal is None or self.conformal.method == wanted:
            return ""
        return f"conformal sets of a {self.task} task are made by {wanted}"

    def _canary_fault(self) -> str:
        outputs = self.shape.num_outputs
        if self.canaries is None or {len(one.logits) for one in self.canaries.texts} == {outputs}:
            return ""
        return f"canaries: one or more, with {outputs} logits each, are meant"

    def _scope_fault(self) -> str:
        if self.template == "chat" or self.scope == "all":
            return ""
        return f"scope {self.scope!r} does not fit texts without turns (template raw): all is meant"

    def _layer_fault(self) -> str:
        if self.model.dim < 1:
            return f"a model of width {self.model.dim} does not exist"
        if not self.layers or _repeats(self.layers):
            return f"layers {list(self.layers)} are not one or more different ones"
        last = self.model.num_layers + self.model.num_routers
        beyond = [layer for layer in self.layers if not 0 <= layer <= last]
        return f"layers {beyond} are not among the model's, 0 to {last}" if beyond else ""

    def _depth_fault(self) -> str:
        if not self.depths:
            return ""
        got = f"depths {list(self.depths)}"
        if not aggregator(self.probe).network.depths:
            return f"{got}: probe {self.probe!r} has no read-outs at depths"
        rising = list(self.layers) == sorted(self.layers)
        own = list(self.depths) == sorted({*self.depths} & {*self.layers[:-1]})
        return "" if rising and own else f"{got} are not rising layers below the last it reads"

    def _exit_fault(self) -> str:
        if self.exit is None:
            return ""
        if self.conformal is not None:
            return "exit: sets of labels keep their promise at full depth alone; one of the two"
        fault = self.exit.fault(self.task, self.shape.num_outputs, self.depths)
        return f"exit: {fault}" if fault else ""

    def num_layers_to(self, depth: int) -> int:
        """How many of the layers are read up to a depth."""
        return sum(layer <= depth for layer in self.layers)


def make_card(**facts: Any) -> Card:
    """A card of the facts given; what lies in the installation (versions) is added.

    Args:
        facts: the fields of `Card`, all but `format` and `versions`.

    Raises:
        ConfigError: a field is unknown or missing, or contradicts another.
    """
    try:
        return Card.model_validate({"versions": installed_versions(), **facts})
    except ValidationError as error:
        raise ConfigError(f"Card of a probe: {_sentence(error)}") from error


def revise_card(card: Card, **facts: Any) -> Card:
    """The card with other facts in the place of some.

    Raises:
        ConfigError: a field is unknown, or contradicts another.
    """
    return make_card(**{**dict(card), **facts})


def parse_card(text: bytes, source: str) -> Card:
    """The card that a file's content stands for.

    Args:
        text: the content, JSON.
        source: where it came from, for messages.

    Raises:
        ArtefactError: not JSON, of another format, an unknown key, or a value that does not fit.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtefactError(
            f"{source} is not readable as JSON ({error}); restore it, or train the probe again."
        ) from error
    _check_format(content, source)
    try:
        return Card.model_validate_json(json.dumps(_as_today(content)), strict=True)
    except ValidationError as error:
        fault = _sentence(error)
    except ConfigError as error:
        fault = str(error)
    raise ArtefactError(f"{source}: {fault} Restore the file, or train the probe again.")


def tensor_specs(tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """Shape and dtype of every tensor, by name."""
    return {
        name: TensorSpec(shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))
        for name, tensor in tensors.items()
    }


def installed_versions() -> dict[str, str]:
    """Versions of what a probe's numbers depend on."""
    packages = {name: version(name) for name in ("pillion", "torch", "transformers")}
    return packages | {"python": python_version()}


def _check_format(content: object, source: str) -> None:
    facts = cast(dict[str, object], content) if isinstance(content, dict) else {}
    got = facts.get("format")
    if isinstance(got, int) and 1 <= got <= FORMAT:
        return
    if isinstance(got, int) and got > FORMAT:
        raise ArtefactError(
            f"{source} has format {got}, this pillion reads format {FORMAT}: "
            "a newer pillion saved it; upgrade."
        )
    raise ArtefactError(
        f"{source} is no card of a probe (no `format: {FORMAT}` in it); give the folder of a probe."
    )


def _as_today(content: dict[str, Any]) -> dict[str, Any]:
    """A card as this pillion would write it: of this format, without settings that are gone."""
    today = {**content, "format": FORMAT}  # one of format 1 has no scope, and reads everything
    probe, settings = content.get("probe"), content.get("settings")
    if isinstance(probe, str) and isinstance(settings, dict):
        today["settings"] = current_settings(probe, cast(dict[str, Any], settings))
    return today


def _sentence(error: ValidationError) -> str:
    fault = first_fault(error)
    if fault.kind in {UNKNOWN, "unexpected_keyword_argument"}:
        return str(unknown_name("key", fault.place, _known_keys(fault.path[:-1])))
    if fault.kind in {"missing", "value_error", "json_invalid"}:
        return sentence(error)
    return f"{fault.place} is {repr(fault.value)[:60]}: {fault.message}."


def _known_keys(parents: tuple[str, ...]) -> list[str]:
    # Full names, `data.sha256`, so that a misspelt key is told from one of another place.
    prefix = "".join(f"{parent}." for parent in parents)
    inner: dict[str, list[str]] = {
        "": list(Card.model_fields),
        "data": list(TrainingData.model_fields),
        "model": [field.name for field in fields(ModelIdentity)],
        "tensors": list(TensorSpec.model_fields),
        "calibration": sorted({*Affine.model_fields, *Isotonic.model_fields}),
        "canaries": list(Canaries.model_fields),
        "conformal": list(Conformal.model_fields),
        "exit": sorted({*Exit.model_fields, *ExitRead.model_fields}),
    }
    return [prefix + name for name in inner[parents[0] if parents else ""]]


def _repeats(values: tuple[object, ...]) -> bool:
    return len(set(values)) < len(values)
