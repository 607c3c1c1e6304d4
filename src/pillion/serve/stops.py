"""Stop strings in a text that comes in pieces. Knows no tokens and no HTTP."""

from __future__ import annotations

from collections.abc import Sequence


class StopFinder:
    """Passes a text on up to the first stop string that is completed.

    What could be the beginning of one is held back. Law: the text that is passed on does not depend
    on where the pieces are cut.

    Args:
        stops: none of them empty.

    Attributes:
        found: whether a stop string was met; nothing is passed on any more.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.found = False
        self._held = ""

    def add(self, text: str) -> str:
        """The text that can go out now that this piece has come."""
        if self.found or not self.stops:
            return "" if self.found else text
        self._held += text
        begin = self._first()
        if begin is not None:
            self.found = True
            return self._release(begin)
        return self._release(len(self._held) - self._longest_beginning())

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        return "" if self.found else self._release(len(self._held))

    def _first(self) -> int | None:
        """Where the stop that is completed first begins; of two, the longer."""
        places = ((self._held.find(stop), stop) for stop in self.stops)
        ends = [(begin + len(stop), begin) for begin, stop in places if begin >= 0]
        return min(ends)[1] if ends else None

    def _longest_beginning(self) -> int:
        """Length of the longest end of the held text that a stop string begins with."""
        longest = min(len(self._held), max(map(len, self.stops)) - 1)
        for length in range(longest, 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self.stops):
                return length
        return 0

    def _release(self, length: int) -> str:
        out, self._held = self._held[:length], self._held[length:]
        return out
