"""Weights as loading makes them of what lies on disk, a few tensors at a time.

transformers stores some weights by other names or in other pieces than a model has them in memory:
a mixture's experts lie one by one and are run as one tensor. Its own table of conversions is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

Load = Callable[[], Mapping[str, Tensor]]
"""Reads some tensors and gives weights of the model by name."""


def loads_of(network: Any, stored: Iterable[str], read: Callable[[str], Tensor]) -> Iterator[Load]:
    """What loading does, weight by weight; tensors that the model has no place for are left out.

    Args:
        network: of transformers, its weights are not looked at.
        stored: names on disk.
        read: the tensor of such a name.
    """
    table = get_model_conversion_mapping(network)
    state, prefix = network.state_dict(), network.base_model_prefix
    renamings = [one for one in table if isinstance(one, WeightRenaming)]
    converters = [one for one in table if isinstance(one, WeightConverter)]
    of_pattern = {pattern: one for one in converters for pattern in one.source_patterns}
    found: dict[str, Any] = {}
    for key in sorted(stored, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, state)
        if name not in state and key in state:
            name, pattern = rename_source_key(key, [], [], prefix, state)
        if name not in state:
            continue
        if name not in found:
            found[name] = deepcopy(of_pattern[pattern]) if pattern else WeightRenaming(key, name)
        found[name].add_tensor(name, key, pattern or key, partial(read, key))
    for name, one in found.items():
        yield partial(_converted, one, name, network)


def _converted(one: Any, name: str, network: Any) -> dict[str, Tensor]:
    made = one.convert(name, model=network, config=network.config)
    return {key: part[0] if isinstance(part, list) else part for key, part in made.items()}
