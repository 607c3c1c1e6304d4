"""Fingerprints of a model's weights: the same for the same weights, whatever dtype they lie in.

Reads weights wherever they are: in memory, quantised, or set aside by accelerate. Does not know
what adapters are, nor where a model came from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from pillion.errors import ConfigError

SAMPLES = 4096
"""Numbers a weight tensor that go into the fingerprint, evenly spaced: any fine-tuning shows."""


@dataclass(frozen=True)
class Fingerprint:
    """What tells weights from others.

    Attributes:
        sha256: of every weight's name, shape and evenly spaced numbers, rounded to bf16: the same
            for a copy in bf16, the narrowest dtype that models are served in.
        float16_sha256: what `sha256` is for the copy in fp16. It is another number, for fp16 puts
            some numbers halfway between two of bf16, and no rounding is blind to both.
    """

    sha256: str
    float16_sha256: str

    def joined(self, others: Iterable[Fingerprint]) -> Fingerprint:
        """Of these weights with others beside them, in whatever order."""
        beside = sorted(others, key=lambda one: one.sha256)
        if not beside:
            return self
        return Fingerprint(
            _sha256("".join([self.sha256, *(one.sha256 for one in beside)])),
            _sha256("".join([self.float16_sha256, *(one.float16_sha256 for one in beside)])),
        )


def fingerprint_of(weights: Iterable[tuple[str, Any]]) -> Fingerprint:
    """The fingerprint of weights that come one by one.

    Args:
        weights: name and value, in any order; a tensor, or what quantised modules keep.

    Raises:
        ConfigError: a tensor without numbers in it.
    """
    exact, halved = dict[str, bytes](), dict[str, bytes]()
    for name, value in weights:
        for part, plain in _plain(name, value):
            exact[part] = plain if isinstance(plain, bytes) else _numbers(part, plain)
            halved[part] = plain if isinstance(plain, bytes) else _numbers(part, plain, half=True)
    return Fingerprint(_digest(exact), _digest(halved))


def state_of(model: nn.Module) -> dict[str, Any]:
    """Every value of a model's state by name; those that accelerate has set aside are fetched late.

    Raises:
        ConfigError: a layer whose weights are no part of the state.
    """
    state: dict[str, Any] = model.state_dict()
    for name, module in model.named_modules():
        linear = {"in_features", "out_features"} <= vars(module).keys()
        if linear and next(module.parameters(), None) is None and not module.state_dict():
            raise ConfigError(
                f"Layer {name} ({type(module).__name__}) keeps its weights where they cannot be "
                "read, so this model cannot be told from others; load it without that layer's "
                "quantisation."
            )
    return {name: _fetched(model, name, value) for name, value in state.items()}


def set_aside(module: nn.Module) -> Any | None:
    """The hook by which accelerate brings a module's weights when it runs; None if it has none."""
    hook = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        if getattr(one, "weights_map", None) is not None:
            return one
    return None


@dataclass(frozen=True)
class _LazyTensor:
    """A tensor that is read when it is asked for."""

    weights: Any
    name: str

    def fetch(self) -> Tensor:
        return self.weights[self.name]


def _fetched(model: nn.Module, name: str, value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.is_meta:
        return value
    owner, _, own = name.rpartition(".")
    hook = set_aside(model.get_submodule(owner))
    return value if hook is None else _LazyTensor(hook.weights_map, own)


def _plain(name: str, value: Any) -> Iterator[tuple[str, Tensor | bytes]]:
    """A value as tensors of plain numbers, or as bytes."""
    if isinstance(value, _LazyTensor):
        value = value.fetch()
    if isinstance(value, tuple | list):
        for place, one in enumerate(value):
            yield from _plain(f"{name}.{place}", one)
    elif not isinstance(value, Tensor):
        yield name, f"{name}{value!r}".encode()
    elif is_traceable_wrapper_subclass(value):
        inner, _ = value.__tensor_flatten__()
        for one in sorted(inner):
            yield from _plain(f"{name}.{one}", getattr(value, one))
    elif value.is_meta:
        raise ConfigError(
            f"The weights {name!r} have no numbers (device `meta`), so this model cannot be told "
            "from others; load its weights first."
        )
    else:
        yield name, value.dequantize() if value.is_quantized else value


def _numbers(name: str, tensor: Tensor, half: bool = False) -> bytes:
    flat = tensor.detach().reshape(-1)
    numbers = flat[:: max(1, flat.numel() // SAMPLES)]
    if not numbers.is_floating_point():  # packed bits: rounding would lose some
        numbers = torch.view_as_real(numbers) if numbers.is_complex() else numbers.to(torch.int64)
    else:
        rounded = numbers.to(torch.float16) if half else numbers
        numbers = rounded.to(torch.bfloat16).float()
    return f"{name}{tuple(tensor.shape)}".encode() + numbers.cpu().numpy().tobytes()


def _digest(parts: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(parts):
        digest.update(parts[name])
    return digest.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
