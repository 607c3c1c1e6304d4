"""Which probes ride in an engine of another project: what its processes are told of them."""

from __future__ import annotations

from pydantic import Field

from pillion.core.strict import Strict
from pillion.probe import Artefact


class RidingProbes(Strict):
    """Probes that ride.

    Attributes:
        probes: name -> folder of a saved probe.
        allow_mismatch: only warn of probes trained on other weights, tokenizer or template.
        reasoning: tokens around the reasoning in an answer, which scopes leave out; None where no
            probe has to know.
    """

    probes: dict[str, str] = Field(min_length=1)
    allow_mismatch: bool = False
    reasoning: tuple[int, int] | None = None

    def load(self) -> list[Artefact]:
        """The probes.

        Raises:
            ArtefactError: one cannot be read.
        """
        return [Artefact.load(folder, name) for name, folder in self.probes.items()]
