"""What engines that run a backend themselves have in common: its model, and probes that fit it.

Knows neither requests nor steps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from pillion.backends import Backend
from pillion.core import Tokens
from pillion.probe import Artefact
from pillion.runtime.engine import Engine, check_rows, chosen
from pillion.runtime.explanation import Explanation


class BackendEngine(Engine):
    """An engine of a backend's model.

    Args:
        backend: the model.
    """

    _probes: dict[str, Artefact]

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.codec, self.identity, self.end_ids = backend, backend.identity, backend.end_ids
        self.vocab_size, self._unchanged = backend.vocab_size, backend.unchanged()

    @property
    def probes(self) -> Mapping[str, Artefact]:
        """The probes that ride now, by name."""
        return dict(self._probes)

    @property
    def dtype(self) -> str:
        """That the backend computes in."""
        return str(self.backend.dtype).removeprefix("torch.")

    def check_grammar(self, grammar: str) -> None:
        """Returns if answers can follow a grammar; see `Engine.check_grammar`."""
        self.backend.matcher(grammar)

    async def explain(self, row: Tokens, probe: str) -> Explanation:
        """Why a verdict is what it is; see `Engine.explain`."""
        (artefact,) = chosen(self._probes, [probe])
        check_rows([row], self.longest_row, self.vocab_size)
        return await self._explain(row, artefact)

    @abstractmethod
    async def _explain(self, row: Tokens, artefact: Artefact) -> Explanation:
        """`explain` of a row that fits."""

    def _checked(self, probes: Sequence[Artefact]) -> dict[str, Artefact]:
        """Probes by name, once they were seen to fit the model as it is now."""
        self._unchanged()
        for artefact in probes:
            artefact.check(self.identity)
        if any(artefact.card.exit for artefact in probes):
            self.backend.check_early_exit()  # a look at what was found out, from the second time on
        return {artefact.name: artefact for artefact in probes}
