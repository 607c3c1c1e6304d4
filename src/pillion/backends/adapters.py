"""Adapters (PEFT) in a model: which of them take part in a pass, and with which weights.

A model is its base weights and the adapters that are active: those that are disabled or not chosen
are no part of it, and those that are merged have become base weights. Knows the modules that peft
puts into a model by what they are called, and does not import peft.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from pillion.backends.fingerprint import Fingerprint, fingerprint_of, state_of
from pillion.errors import ConfigError, MismatchError

_BASES = ("base_layer", "original_module")
"""What a module's own weights are called once an adapter stands before it."""
_UNREAD = {"XLORA", "POLY"}
"""Kinds whose weights depend on the request."""
_CHOICE = attrgetter("active_adapter", "disable_adapters", "merged_adapters")
_PLAIN = (bool, int, float, str, list, tuple)
"""What a setting of an adapter is."""


@dataclass(frozen=True)
class ActiveAdapters:
    """Which adapters take part in a model's passes.

    Attributes:
        layers: what decides it in each layer that has any: (active, disabled, merged, their plain
            settings such as the scaling).
        active: names of those that take part, beside the base weights.
        merged: names of those that are part of the base weights by now.
        weights: some numbers of theirs, which are others once they were replaced.
    """

    layers: tuple[Any, ...] = ()
    active: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    weights: tuple[Any, ...] = ()

    def __str__(self) -> str:
        """Names, for a sentence."""
        words = [f"adapters {', '.join(self.active)}"] if self.active else []
        words += [f"{', '.join(self.merged)} merged"] if self.merged else []
        return " and ".join(words) or "no adapter"


def active_adapters(model: nn.Module) -> ActiveAdapters:
    """Which adapters take part in a pass that begins now."""
    layers = list(_layers(model))
    if not layers:
        return ActiveAdapters()
    active = {name for _, layer in layers for name in _active(layer)}
    merged = {name for _, layer in layers for name in layer.merged_adapters}
    facts = tuple(
        (names, layer.disable_adapters, tuple(layer.merged_adapters), _all_settings(layer, names))
        for _, layer in layers
        for names in [tuple(_names(layer))]
    )
    weights = _numbers([layer for _, layer in layers], active | merged)
    return ActiveAdapters(facts, tuple(sorted(active)), tuple(sorted(merged)), weights)


def check_adapters(model: nn.Module, held: ActiveAdapters) -> None:
    """Returns if a pass that begins now runs the adapters that were there when it was asked.

    Args:
        model: that runs it.
        held: of the model when probes were attached.

    Raises:
        MismatchError: it runs others, or its rows have adapters of their own.
    """
    for _, layer in _layers(model):
        for hook in layer._forward_pre_hooks.values():
            if {"adapter_names", "alora_offsets"} & getattr(hook, "keywords", {}).keys():
                raise MismatchError(
                    "The rows of this pass have adapters of their own (adapter_names), and a probe "
                    "belongs to one model; run the rows of one adapter at a time."
                )
    now = active_adapters(model)
    if now != held:
        same = replace(now, weights=held.weights) == held
        raise MismatchError(
            f"The model runs with {'other weights of ' if same else ''}{now}, and had {held} when "
            "its probes were attached, so that their verdicts would be of another model; choose "
            "those adapters again, or attach the probes (start the engine) after the others are "
            "chosen."
        )


class Unchanged:
    """Raises once a model's passes would run other adapters than when this was made.

    A cheap comparison, for every step of an engine; only a difference is looked at closely.

    Args:
        model: that an engine runs.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._held = model, active_adapters(model)
        self._note()

    def __call__(self) -> None:
        """Returns if a pass that begins now runs the same adapters; else see `check_adapters`."""
        if "peft" in sys.modules and not self._as_noted():
            check_adapters(self._model, self._held)
            self._note()

    def _note(self) -> None:
        """Whole lists are compared, which costs a hundredth of asking each layer."""
        self._layers = [layer for _, layer in _layers(self._model)]
        # An adapter that comes later is a module in the place of another.
        modules = [vars(module)["_modules"] for module in self._model.modules()]
        settings = [
            value
            for layer in self._layers
            for value in vars(layer).values()
            if isinstance(value, dict) and all(isinstance(one, _PLAIN) for one in value.values())
        ]
        self._live = [one for one in (*modules, *settings) if one]
        self._noted = [dict(one) for one in self._live]
        self._chosen = deepcopy([*map(_CHOICE, self._layers)])

    def _as_noted(self) -> bool:
        held = self._held
        return (
            self._live == self._noted
            and [*map(_CHOICE, self._layers)] == self._chosen
            and _numbers(self._layers, {*held.active, *held.merged}) == held.weights
        )


def fingerprint(model: nn.Module) -> Fingerprint:
    """Of the weights that take part in a model's passes: base weights and active adapters.

    A model whose adapters are disabled is its base model; one whose adapters are merged is the
    model that a merge leaves behind. What an adapter is called does not matter.

    Raises:
        ConfigError: weights that cannot be read, or adapters that are merged and disabled.
    """
    layers = dict(_layers(model))
    base: dict[str, Any] = {}
    beside: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for key, value in state_of(model).items():
        place = _place(key, layers)
        if place is None:
            base[_base_name(key) if layers else key] = value
            continue
        for name in _active(layers[place]):
            if (own := _own_name(key, place, name, layers[place])) is not None:
                beside[name][own] = value
    for place, layer in layers.items():
        for name in _active(layer):
            if name in beside:
                beside[name][f"{_base_name(place)}:{type(layer).__name__}"] = repr(
                    _settings(layer, name)
                )
    one_by_one = [fingerprint_of(own.items()) for own in beside.values()]
    return fingerprint_of(base.items()).joined(one_by_one)


def unwrapped(model: Any) -> Any:
    """The transformers model that runs, with its adapters in place; without what wraps it.

    Raises:
        ConfigError: adapters that are more than weights beside weights.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile has wrapped
    if not any(kind.__module__.startswith("peft.") for kind in type(model).__mro__):
        return model
    from peft.tuners.tuners_utils import BaseTuner

    configs = list(model.peft_config.values())
    kinds = {str(getattr(one.peft_type, "value", one.peft_type)) for one in configs}
    invoked = any(getattr(one, "alora_invocation_tokens", None) for one in configs)
    if not isinstance(model.base_model, BaseTuner) or kinds & _UNREAD or invoked:
        raise ConfigError(
            f"Adapters of the kind {', '.join(sorted(kinds))} add tokens or change with the "
            "request, so that their model is not one model; probes read LoRA and other adapters "
            "whose weights stand beside the model's."
        )
    return model.base_model.model


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Modules that hold adapters, by name."""
    if "peft" not in sys.modules:  # without peft no module has adapters
        return
    for name, module in model.named_modules():
        if hasattr(type(module), "adapter_layer_names"):
            yield name, module


def _names(layer: Any) -> list[str]:
    chosen = layer.active_adapters
    return [chosen] if isinstance(chosen, str) else list(chosen)


def _active(layer: Any) -> list[str]:
    """Adapters whose weights a layer adds to its own."""
    if layer.merged_adapters and layer.disable_adapters:
        raise ConfigError(
            f"The adapters {', '.join(layer.merged_adapters)} are merged and disabled, so that the "
            "next pass takes them out of the weights; unmerge them first."
        )
    return [] if layer.disable_adapters or layer.merged_adapters else _names(layer)


def _settings(layer: Any, adapter: str) -> list[tuple[str, Any]]:
    """Plain settings of one adapter in a layer, such as its scaling."""
    return [
        (name, value[adapter])
        for name, value in sorted(vars(layer).items())
        if isinstance(value, dict) and isinstance(value.get(adapter), _PLAIN)
    ]


def _all_settings(layer: Any, adapters: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(_settings(layer, name) for name in adapters)


def _numbers(layers: Sequence[Any], adapters: Collection[str]) -> tuple[Any, ...]:
    """Some numbers of adapters' weights in the last layer that has any.

    Weights that are loaded or swapped in the place of others (peft) change in every layer, and a
    swap leaves no other trace: it writes around versions.
    """
    each = ([*_tensors(layer, adapters)] for layer in reversed(layers))
    return tuple(one.detach().flatten()[:8].tolist() for one in next(filter(None, each), ()))


def _tensors(layer: Any, adapters: Collection[str]) -> Iterator[Tensor]:
    """Weights of some adapters in a layer, without those that accelerate has set aside."""
    for word in layer.adapter_layer_names:
        held: Any = getattr(layer, word, None)
        for name in sorted(adapters) if hasattr(held, "keys") else ():
            if name in held:
                own = held[name]
                every = own.parameters() if isinstance(own, nn.Module) else [own]
                yield from (tensor for tensor in every if not tensor.is_meta)


def _place(key: str, layers: Mapping[str, Any]) -> str | None:
    """The layer whose adapters a value of the state belongs to; None for a base weight."""
    parts = key.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if (name := ".".join(parts[:end])) in layers:
            return None if parts[end] in _BASES else name
    return None


def _own_name(key: str, place: str, adapter: str, layer: Any) -> str | None:
    """What an adapter's weight is called without the adapter; None for another adapter's."""
    parts = key.removeprefix(f"{place}.").split(".")
    if adapter in parts:
        parts.remove(adapter)
    elif any(name in parts for name in _all_names(layer)):
        return None
    return ".".join([_base_name(place), *parts])


def _all_names(layer: Any) -> set[str]:
    words = (*layer.adapter_layer_names, *layer.other_param_names)
    held: list[Any] = [getattr(layer, word, ()) for word in words]
    return {name for one in held if hasattr(one, "keys") for name in one}


def _base_name(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in (*_BASES, "token_adapter"))
