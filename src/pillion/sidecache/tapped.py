"""Which probes a serving engine can follow, in groups. Knows probes alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pillion.errors import ConfigError
from pillion.probe import Artefact
from pillion.probe.group import Group, check_names, group


def tapped_groups(
    artefacts: Sequence[Artefact], device: torch.device, dtype: torch.dtype
) -> list[Group]:
    """Probes that an engine can serve, sorted into those that share taps and a fold.

    Args:
        artefacts: the probes; their names must differ.
        device: where the model runs.
        dtype: of the model's states.

    Raises:
        ConfigError: two probes of one name, or one that reads whole states.
    """
    check_names([a.name for a in artefacts])
    groups = group(artefacts, device, dtype)
    for one in groups:
        if not one.tapped:
            names = ", ".join(a.name for a in one.artefacts)
            raise ConfigError(
                f"Probe {names} reads whole hidden states, which a serving engine cannot keep for "
                "every token; serve a probe that can be tapped, such as gate, and use this one "
                "with predict."
            )
    return groups
