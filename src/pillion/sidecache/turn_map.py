"""Which turn each token of one request belongs to, page by page, in its prompt and its answer.

Places within a page are bits of a number: bit i is the page's token i. Knows neither probes nor
states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pillion.core import ANSWER_SCOPES, Scope, Tokens, in_reasoning, role_of

NEVER = 2**62
"""Where the answer begins of a request of which nothing is known."""


@dataclass(frozen=True)
class TurnPiece:
    """Tokens of one turn in one page.

    Attributes:
        bits: which of the page's tokens they are.
        wanted: whether the scope reads them in this request; of `last-user`, only the last turn.
        of_answer: whether tokens of the answer are among them, or will be.
    """

    bits: int
    wanted: bool = True
    of_answer: bool = False


class TurnMap:
    """The turns of a request.

    Args:
        tokens: the prompt; None for an unknown request, which no scope but `all` reads.
        page_tokens: tokens a page.
        reasoning: tokens that begin and end reasoning, which no scope but `all` reads.
        answering: whether an answer follows, which is then what probes of answers read; of a whole
            conversation they read the last assistant's turn.

    Attributes:
        prompt_tokens: length of the prompt; what comes behind it is the answer.
        answering: as given.
    """

    def __init__(
        self,
        tokens: Tokens | None,
        page_tokens: int,
        reasoning: tuple[int, int] | None = None,
        answering: bool = True,
    ) -> None:
        self._tokens = Tokens() if tokens is None else tokens
        self.prompt_tokens = NEVER if tokens is None else len(tokens)
        self._size, self._reasoning, self.answering = page_tokens, reasoning, answering
        self._inside = in_reasoning(self._tokens, reasoning)
        self._answer_bits = self._num_answered = 0
        self._tables: dict[Scope, dict[int, list[TurnPiece]]] = {}

    def extend(self, start: int, ids: Sequence[int]) -> None:
        """Tokens that run, from a place on; those of the answer are told from its reasoning."""
        for place, token in enumerate(ids, start - self.prompt_tokens):
            if place != self._num_answered:
                continue  # of the prompt, or begun again
            if is_mark := self._reasoning is not None and token in self._reasoning:
                self._inside = self._reasoning is not None and token == self._reasoning[0]
            self._answer_bits |= (not is_mark and not self._inside) << place
            self._num_answered += 1

    def has(self, scope: Scope) -> bool:
        """Whether the prompt has a token that the scope reads."""
        is_answers = scope == "response" and self.answering
        return not is_answers and bool(self._tokens.ranges(scope))

    def bits(self, scope: Scope, begin: int, end: int, every_turn: bool = False) -> int:
        """Which tokens from one place to another the scope reads; bit 0 is the first of them.

        Args:
            scope: which turns.
            begin: place of the first token.
            end: place behind the last one; `extend` was given all of them.
            every_turn: of `last-user`, the turns before the last one too.
        """
        if scope == "all":
            return ones(end - begin)
        found, cut = 0, self.prompt_tokens
        if begin < cut:
            table = self._table(scope)
            for page in range(begin // self._size, -(-min(end, cut) // self._size)):
                for piece in table.get(page, ()):
                    if piece.wanted or every_turn:
                        found |= _shift(piece.bits, page * self._size - begin)
        if end > cut and scope in ANSWER_SCOPES:
            first = max(begin, cut)
            found |= self._answered(first, end) << (first - begin)
        return found & ones(end - begin)

    def pieces(self, scope: Scope, page: int) -> list[TurnPiece]:
        """What a full page keeps for a scope: a piece a turn, in their order.

        None for `response`: an answer is read by its own request alone, from its first token on.
        """
        if scope == "all":
            return [TurnPiece(ones(self._size), of_answer=True)]
        if scope == "response":
            return []
        begin, end = page * self._size, (page + 1) * self._size
        found = self._table(scope).get(page, [])
        if scope != "assistant" or end <= self.prompt_tokens:
            return found
        first = max(begin, self.prompt_tokens)
        answered = self._answered(first, end) << (first - begin)
        return [*found, TurnPiece(answered, of_answer=True)] if answered else found

    # -- inside

    def _answered(self, begin: int, end: int) -> int:
        if self._reasoning is None:
            return ones(end - begin)
        return self._answer_bits >> (begin - self.prompt_tokens) & ones(end - begin)

    def _table(self, scope: Scope) -> dict[int, list[TurnPiece]]:
        """Pieces of the prompt by page, each as far as the prompt goes."""
        if (known := self._tables.get(scope)) is not None:
            return known
        if scope == "response" and self.answering:
            return {}
        role = role_of(scope)
        read = set(self._tokens.ranges(scope))
        turns: dict[tuple[int, int], TurnPiece] = {}
        for one in self._tokens.segments:
            # Words without a token of their own (left out, or in a token of others) are no piece.
            if one.role != role or one.kind != "content" or one.begin == one.end:
                continue
            places = range(one.begin, one.end)
            for page in range(one.begin // self._size, -(-one.end // self._size)):
                bits = _shift(ones(len(places)), one.begin - page * self._size)
                before = turns.get((page, one.turn), TurnPiece(0))
                bits = before.bits | bits & ones(self._size)
                turns[page, one.turn] = TurnPiece(bits, places in read)
        table: dict[int, list[TurnPiece]] = {}
        for (page, _), piece in turns.items():
            table.setdefault(page, []).append(piece)
        return self._tables.setdefault(scope, table)


def ones(count: int) -> int:
    """A number whose lowest `count` bits are set."""
    return (1 << count) - 1


def _shift(bits: int, places: int) -> int:
    return bits << places if places >= 0 else bits >> -places
