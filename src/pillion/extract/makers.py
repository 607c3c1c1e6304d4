"""Whether two makers of states agree: processors, and numbers of threads, that round differently.

Promises that states of one run differ by rounding alone, whichever machine made them. A maker is
known by its states of one fixed row.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from pillion.backends import Backend
from pillion.cache import replacing, storage_errors
from pillion.core import ModelIdentity
from pillion.errors import MismatchError, StorageError
from pillion.extract.collector import Collector, run_batch

SAMPLE_TOKENS = 16
"""Of the fixed row, spread over the vocabulary."""

MAKER_NAME = ".maker-"
"""Begins the name of the file that keeps the first maker's sample beside what a run has made."""

TOLERANCES = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}
"""Largest difference of two makers' states of a token, over their length, by dtype.

Instruction sets of one processor, with one thread and two, were up to 1.4e-6 and 0.03 apart (the
embedded model's last layer).
"""

Sample = Float[np.ndarray, "layer dim"]


@dataclass(frozen=True)
class Maker:
    """What tells a maker of states from others.

    Attributes:
        identity: of the model.
        dtype: in which it computes.
        sample: the last token's states of the fixed row, all layers.
    """

    identity: ModelIdentity
    dtype: str
    sample: Sample

    @classmethod
    def of(cls, backend: Backend) -> Maker:
        """This process, with the model that it has."""
        layers = range(backend.identity.num_layers + 1)
        collector = Collector(layers)
        row = [
            (2 * n + 1) * backend.vocab_size // (2 * SAMPLE_TOKENS) for n in range(SAMPLE_TOKENS)
        ]
        block = torch.empty(len(layers), len(row), backend.identity.dim, dtype=backend.dtype)
        with backend.watch(collector, layers):
            run_batch(backend, collector, [row], [block])
        dtype = str(backend.dtype).removeprefix("torch.")
        return cls(backend.identity, dtype, block[:, -1].float().numpy())

    def meet(self, folder: Path) -> None:
        """Compares it with the one that has begun in a folder; the first leaves its sample there.

        Raises:
            MismatchError: they differ by more than rounding.
            StorageError: the folder cannot be written, or the file there is broken.
        """
        place = folder / self._name()
        try:
            kept = np.load(place, allow_pickle=False) if place.exists() else None
        except (OSError, ValueError, EOFError) as error:
            raise StorageError(f"{place} cannot be read ({error}); delete {folder}.") from error
        if kept is not None:
            return check_samples(kept, self.sample, self.dtype)
        content = io.BytesIO()
        np.save(content, self.sample)
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with replacing(place) as file:
            file.write(content.getvalue())

    def _name(self) -> str:
        """Of its file; another model has another one."""
        facts = [value for name, value in vars(self.identity).items() if name != "name"]
        return MAKER_NAME + hashlib.sha256(repr([*facts, self.dtype]).encode()).hexdigest()[:16]


def forget_makers(folder: Path) -> None:
    """Deletes the samples in a folder: all that was to be made is there.

    Raises:
        StorageError: the folder cannot be written.
    """
    with storage_errors(folder):
        for place in folder.glob(f"{MAKER_NAME}*"):
            place.unlink(missing_ok=True)


def check_samples(first: Sample, other: Sample, dtype: str) -> None:
    """Returns if two makers differ by rounding alone.

    Args:
        first: of the maker that the others are held against.
        other: of another one.
        dtype: in which both compute.

    Raises:
        MismatchError: they differ by more, saying by how much.
    """
    found, tolerance = difference(first, other), TOLERANCES.get(dtype, TOLERANCES["bfloat16"])
    if not found <= tolerance:
        raise MismatchError(
            "Machines that share this run disagree: states of the same tokens differ by "
            f"{found:.2g} of their length, where rounding makes {tolerance:.2g} in {dtype}; "
            "use machines of one kind, or delete what the others have made."
        )


def difference(first: Sample, other: Sample) -> float:
    """The largest of all layers: the difference of two states over the length of the first."""
    lengths = np.linalg.norm(first, axis=-1)
    return float((np.linalg.norm(first - other, axis=-1) / np.maximum(lengths, 1e-12)).max())
