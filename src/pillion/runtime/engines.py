"""Serving engines by name; heavy ones are imported when they are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pillion.backends import load_backend
from pillion.backends.paged import PagedSettings
from pillion.core import defaults
from pillion.errors import unknown_name
from pillion.probe import Artefact
from pillion.runtime.continuous_engine import ContinuousEngine
from pillion.runtime.engine import Engine
from pillion.runtime.plain_engine import PlainEngine

Loader = Callable[[str, str, str, Sequence[Artefact], PagedSettings], Engine]
"""Of model, dtype, device, probes and sizes."""


def _transformers(
    model: str, dtype: str, device: str, probes: Sequence[Artefact], sizes: PagedSettings
) -> Engine:
    return ContinuousEngine(load_backend(model, dtype, device), probes, sizes)


ENGINES: dict[str, Loader] = {
    "transformers": _transformers,
}
"""Engines that serve a model of that name."""


def load_engine(
    name: str = defaults.ENGINE,
    model: str = defaults.MODEL,
    probes: Sequence[Artefact] = (),
    dtype: str = defaults.DTYPE,
    device: str = defaults.DEVICE,
    sizes: PagedSettings | None = None,
    known: Mapping[str, Loader] | None = None,
) -> Engine:
    """An engine with its model, not started yet.

    Args:
        name: a key of `known`; the model `fake` is served by the plain engine in any case.
        model: `embedded`, `fake`, a folder, a GGUF file, or a hub name.
        probes: those that ride from the start.
        dtype: of the weights.
        device: `cpu`, `cuda`, ...
        sizes: how much is held and done at once; None for the defaults.
        known: engines by name; None for `ENGINES`.

    Raises:
        ConfigError: for an unknown engine, or a model that cannot be loaded.
        MismatchError: if a probe belongs to another model.
    """
    loaders = ENGINES if known is None else known
    if name not in loaders:
        raise unknown_name("engine", name, loaders)
    if model == "fake":
        return PlainEngine(load_backend(model), probes)
    return loaders[name](model, dtype, device, probes, sizes or PagedSettings())
