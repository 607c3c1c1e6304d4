"""A probe as it lives on disk: a folder with `probe.safetensors` and `card.json`.

Promises that a reader meets a whole probe or a sentence that says what is wrong, also after a save
that was killed, and that a probe is not read from a model it does not belong to. Does not know
engines.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from pillion.core import ModelIdentity, Verdict
from pillion.errors import ArtefactError, MismatchError
from pillion.probe.calibration import Calibrator
from pillion.probe.card import Card, TensorSpec, make_card, parse_card, revise_card, tensor_specs
from pillion.probe.decisions import abstains, prediction_set
from pillion.probe.folders import (
    CARD_NAME,
    WEIGHTS_NAME,
    read_folder,
    replace_folder,
    storage_errors,
)
from pillion.probe.network import Network, NetworkSettings
from pillion.probe.registry import aggregator, build
from pillion.probe.task import probabilities, verdict

_AGAIN = "restore the folder, or train the probe again."


@dataclass(frozen=True, eq=False)
class Artefact:
    """A trained probe with its card; folders in, folders out.

    Law: `load` of what `save` wrote gives equal outputs, bit for bit. A save that is killed at any
    point leaves the old or the new probe for `load`, whole.

    Attributes:
        name: what its verdicts are signed with; by default the folder's name.
        card: what it is and what it belongs to.
        network: its arithmetic.

    Raises:
        ArtefactError: the network is not the one that the card speaks of.
    """

    name: str
    card: Card
    network: Network

    def __post_init__(self) -> None:
        wanted = aggregator(self.card.probe).network
        if type(self.network) is not wanted or self.network.shape != self.card.shape:
            raise ArtefactError(
                f"Probe {self.name!r}: the network is a {type(self.network).__name__} of "
                f"{self.network.shape}, its card says {wanted.__name__} of {self.card.shape}; "
                "make the artefact from the network that was trained."
            )

    @classmethod
    def of(cls, name: str, network: Network, **facts: Any) -> Artefact:
        """The artefact of a trained network.

        Args:
            name: what its verdicts are signed with.
            network: as trained; later changes to its weights are refused by `save`.
            facts: the fields of `Card` that the network and the installation do not settle: probe,
                task, labels, layers, template, model, data, seed, training, metrics; and where they
                are not None: depths, thresholds, calibration, abstain, conformal, exit, decisions.

        Raises:
            ConfigError: a fact is unknown or missing, or contradicts another.
            ArtefactError: the network is not the one that the facts speak of.
        """
        tensors = _tensors_of(network)
        settled = {
            "settings": cast(NetworkSettings, network.settings).model_dump(),
            "tensors": tensor_specs(tensors),
            "weights_sha256": _sha256(safetensors.torch.save(tensors)),
        }
        return cls(name, make_card(**{**facts, **settled}), network)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the probe's folder: whole or not at all, in the place of a probe that lies there.

        Files of other names in a replaced probe's folder are kept.

        Raises:
            ArtefactError: what lies there is not a probe, or the weights are not the card's.
            StorageError: the disk is full, or cannot be written; the old probe stays.
        """
        weights = safetensors.torch.save(_tensors_of(self.network))
        if _sha256(weights) != self.card.weights_sha256:
            raise ArtefactError(
                f"The weights of probe {self.name!r} have changed since its card was written; "
                "make the artefact again (Artefact.of)."
            )
        card = f"{self.card.model_dump_json(indent=2)}\n".encode()
        # A link stays a link: the folder it points to is replaced.
        target = Path(os.path.realpath(path))
        with storage_errors(target):
            replace_folder(target, {WEIGHTS_NAME: weights, CARD_NAME: card})

    @classmethod
    def load(cls, path: str | os.PathLike[str], name: str | None = None) -> Artefact:
        """The probe that lies in a folder, ready to be read from (`eval` mode, on the CPU).

        Args:
            path: folder of the probe, or a link to it.
            name: what its verdicts are signed with; None for the folder's name.

        Raises:
            ArtefactError: the folder, its card or its weights cannot be read or contradict each
                other; the message says what was got, what was wanted and what to do.
        """
        folder = Path(os.path.abspath(path))
        text, weights = read_folder(folder)
        card = parse_card(text, str(folder / CARD_NAME))
        tensors = _parse_weights(weights, card, folder / WEIGHTS_NAME)
        return cls(folder.name if name is None else name, card, _network(card, tensors, folder))

    def check(self, identity: ModelIdentity, allow_mismatch: bool = False) -> None:
        """Returns if the probe belongs to a model.

        The model's name is informative and not compared; the chat template counts only for a probe
        that was trained on chat turns.

        Args:
            identity: of the model that it will be read from.
            allow_mismatch: warn of other weights, tokenizer, template or dtype and go on. Another
                number of layers or width is an error all the same.

        Raises:
            MismatchError: every difference, in a sentence each.
        """
        shape, fingerprints = self._shape_differences(identity), self._differences(identity)
        if not shape and not fingerprints:
            return
        found = " ".join([f"Probe {self.name!r} belongs to another model.", *shape, *fingerprints])
        if allow_mismatch and not shape:
            warnings.warn(f"{found} Its labels may be wrong.", stacklevel=2)
            return
        wanted = self._other_name(identity.name)
        named = f" ({wanted!r})" if wanted else ""
        ways = f"Load the model that it was trained on{named}, or train it again"
        allow = "" if shape else ", or allow the mismatch (allow_mismatch)"
        error = MismatchError(f"{found} {ways}{allow}.")
        error.model = wanted
        raise error

    def _other_name(self, got: str) -> str | None:
        """What the model that the probe was trained on is called; None if it is called the same."""
        wanted = self.card.model.name
        return wanted if wanted and wanted != got else None

    def revised(self, **facts: Any) -> Artefact:
        """The same probe with other facts on its card, such as `thresholds`.

        Raises:
            ConfigError: a fact is unknown, or contradicts another.
        """
        return replace(self, card=revise_card(self.card, **facts))

    @cached_property
    def whole(self) -> Artefact:
        """The same probe, which reads every text to its last layer whatever its exits."""
        return self if self.card.exit is None else self.revised(exit=None)

    def probabilities(self, logits: Float[Tensor, "batch output"]) -> Float[Tensor, "batch output"]:
        """Probabilities in [0, 1], in fp32, of the network's logits; calibrated by the card."""
        if self._calibrator is None:
            return probabilities(self.card.task, logits)
        return self._calibrator(logits)

    def probabilities_at(
        self, place: int, logits: Float[Tensor, "batch output"]
    ) -> Float[Tensor, "batch output"]:
        """As `probabilities`, of logits at a depth where texts may leave.

        Args:
            place: of the depth among the card's.
            logits: of the layers up to there.
        """
        calibrator = self._depth_calibrators[place]
        if calibrator is None:
            return probabilities(self.card.task, logits)
        return calibrator(logits)

    def verdict(self, probs: list[float]) -> Verdict:
        """The decision that one row of `probabilities` stands for, by the card."""
        card = self.card
        plain = verdict(self.name, card.task, card.labels, probs, card.thresholds)
        if card.abstain is not None:
            plain = replace(plain, abstained=abstains(card.task, probs, card.abstain))
        if card.conformal is not None:
            plain = replace(plain, prediction_set=prediction_set(plain.probs, card.conformal))
        return plain

    @cached_property
    def _calibrator(self) -> Calibrator | None:
        calibration = self.card.calibration
        return None if calibration is None else Calibrator(self.card.task, calibration)

    @cached_property
    def _depth_calibrators(self) -> list[Calibrator | None]:
        card = self.card
        known = [read.calibration for read in card.exit.reads] if card.exit else []
        return [None if one is None else Calibrator(card.task, one) for one in known]

    def _shape_differences(self, identity: ModelIdentity) -> list[str]:
        wanted, found = self.card.model, list[str]()
        if identity.dim != wanted.dim:
            found.append(f"Its states are {wanted.dim} wide, this model's {identity.dim}.")
        if identity.num_layers != wanted.num_layers:
            found.append(
                f"It wants a model of {wanted.num_layers} layers, this one has "
                f"{identity.num_layers}."
            )
        if max(self.card.layers) > wanted.num_layers:
            if identity.num_routers != wanted.num_routers:
                found.append(
                    f"It reads routers of a mixture of experts, {wanted.num_routers} in all, and "
                    f"this model shows {identity.num_routers or 'none'}."
                )
        elif beyond := [layer for layer in self.card.layers if layer > identity.num_layers]:
            found.append(f"It reads layers {beyond}, beyond this model's last.")
        return found

    def _differences(self, identity: ModelIdentity) -> list[str]:
        compared = {"weights": "weights_sha256", "tokenizer": "tokenizer_sha256"}
        if identity.dtype != "float32":  # the same weights, less rounded: nothing is lost
            compared["dtype"] = "dtype"
        if self.card.template == "chat":
            compared["chat template"] = "template_sha256"
        if self.card.model.has_weights_of(identity):
            del compared["weights"]
        found = [
            f"It wants {word} {_brief(wanted)}, this model has {_brief(got)}."
            for word, field in compared.items()
            if (wanted := getattr(self.card.model, field)) != (got := getattr(identity, field))
        ]
        ours, theirs = self.card.model.settings, identity.settings
        found += [
            f"It wants a model whose configuration says {name} {ours[name]}, and this one's says "
            f"{theirs[name]}."
            for name in self.card.model.other_settings(identity)
        ]
        names, others = self.card.model.adapters, identity.adapters
        if found and names != others:
            found.append(f"It wants {_adapters(names)}, this model runs with {_adapters(others)}.")
        return found


# --- weights


def _tensors_of(network: Network) -> dict[str, Tensor]:
    # Copied: the file format refuses tensors that share memory.
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in network.state_dict().items()
    }


def _parse_weights(weights: bytes, card: Card, path: Path) -> dict[str, Tensor]:
    digest = _sha256(weights)
    if digest != card.weights_sha256:
        raise ArtefactError(
            f"{path} is damaged or of another probe: its SHA-256 is {_brief(digest)}, the card "
            f"says {_brief(card.weights_sha256)}; {_AGAIN}"
        )
    try:
        tensors = safetensors.torch.load(weights)
    except SafetensorError as error:
        raise ArtefactError(f"{path} is no safetensors file ({error}); {_AGAIN}") from error
    if fault := _first_difference(tensor_specs(tensors), card.tensors):
        raise ArtefactError(f"{path} is not what the card says: {fault}; {_AGAIN}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ArtefactError(
                f"{path}: the weights {name!r} hold NaN or infinity, of which no verdict follows; "
                f"{_AGAIN}"
            )
    return tensors


def _network(card: Card, tensors: dict[str, Tensor], folder: Path) -> Network:
    settings = card.aggregator_settings
    # Without memory first: a card that asks for too much is refused before it is given any.
    try:
        with torch.device("meta"):
            wanted = aggregator(card.probe).network(card.shape, settings).state_dict()
    except (RuntimeError, TypeError) as error:
        raise ArtefactError(f"{folder}: no probe has {card.shape} ({error}); {_AGAIN}") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if fault := _first_difference(shapes, {n: tuple(t.shape) for n, t in wanted.items()}):
        raise ArtefactError(
            f"{folder}: the weights do not fit the settings, layers, labels and width on the card: "
            f"{fault}; {_AGAIN}"
        )
    network = build(card.probe, card.shape, settings)
    network.load_state_dict(tensors, assign=True)
    return network.eval()


def _first_difference(got: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    for name in sorted({*got, *wanted}):
        if got.get(name) != wanted.get(name):
            return f"tensor {name!r} is {_described(got, name)} and not {_described(wanted, name)}"
    return ""


def _described(specs: Mapping[str, object], name: str) -> str:
    spec = specs.get(name, "absent")
    return f"{spec.dtype} {spec.shape}" if isinstance(spec, TensorSpec) else str(spec)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _adapters(names: tuple[str, ...]) -> str:
    return f"the adapters {', '.join(names)}" if names else "no adapter"


def _brief(fingerprint: str) -> str:
    return fingerprint[:16] or "none"
