"""What may stand before the words that a probe reads: system prompts, earlier turns, tool results.

Promises the same contexts for the same rows and seed. Knows no model, and no template.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources

import numpy as np

from pillion.core import Conversation, Text, Turn
from pillion.data.layout import TableLayout
from pillion.data.rows import read_rows
from pillion.errors import DataError

SHIPPED = "shipped"
"""The name of the contexts that come with pillion."""

ALONE = 1 / 3
"""Share of the rows of a training that stay without a context."""


@dataclass(frozen=True)
class Contexts:
    """Turns to put before rows.

    Attributes:
        name: where they came from.
        sha256: of that file, in hex.
        each: one or more contexts, each with a turn at least.
    """

    name: str
    sha256: str
    each: tuple[Conversation, ...]

    def __len__(self) -> int:
        return len(self.each)

    @property
    def facts(self) -> dict[str, str | int]:
        """What a card or a result file keeps of them: name, digest and number."""
        name = self.name.replace("\\", "/").rsplit("/", 1)[-1]
        return {"name": name, "sha256": self.sha256, "num": len(self)}


def contexts_of(name: str) -> Contexts | None:
    """The contexts of that name: `shipped`, a file of them, or None for `none`.

    Raises:
        DataError: a file without usable contexts.
    """
    if name == "none":
        return None
    return shipped_contexts() if name == SHIPPED else read_contexts(name)


def shipped_contexts() -> Contexts:
    """System prompts, earlier turns and tool results written for this project, and both together.

    Every system prompt stands alone and before one or two of the earlier exchanges, and every
    exchange also by itself.
    """
    file = resources.files("pillion.data").joinpath("contexts.jsonl")
    with resources.as_file(file) as path:
        found = read_contexts(path)
    systems = [one for one in found.each if one[0].role == "system"]
    earlier = [one for one in found.each if one[0].role != "system"]
    both = [(*systems[n % len(systems)], *turns) for n, turns in enumerate(earlier)]
    return Contexts(SHIPPED, found.sha256, (*found.each, *both))


def read_contexts(path: str | os.PathLike[str]) -> Contexts:
    """The contexts of a file with a column `messages`: lists of turns, as JSON Lines or Parquet.

    Raises:
        DataError: a file that cannot be used, or turns that a user's turn cannot follow.
    """
    rows = read_rows(path, None, None, TableLayout(messages_column="messages"))
    each = tuple(text for text in rows.texts if not isinstance(text, str))
    for number, turns in enumerate(each, start=1):
        if (role := turns[-1].role) not in ("system", "assistant"):
            raise DataError(
                f"{rows.path}: the context in row {number} ends with a turn of the {role}, and the "
                "user's words are to follow; end it with the assistant's turn or a system turn."
            )
    return Contexts(rows.path, rows.sha256, each)


def in_context(text: Text, context: Conversation) -> Text:
    """The text, or conversation, behind the turns of a context.

    A row keeps its own system turns in the place of the context's. One that does not go on with a
    user's turn takes no earlier turns, only a system prompt.

    Args:
        text: as it stands alone.
        context: turns that come before; none for a text that stays alone.
    """
    if not context:
        return text
    own: Conversation = (Turn("user", text),) if isinstance(text, str) else text
    num_systems = next((n for n, turn in enumerate(own) if turn.role != "system"), len(own))
    systems, rest = own[:num_systems], own[num_systems:]
    before = context
    if systems:
        before = tuple(turn for turn in before if turn.role != "system")
    if not rest or rest[0].role != "user":
        before = tuple(turn for turn in before if turn.role == "system")
    return (*systems, *before, *rest)


def sample_contexts(
    num_rows: int, seed: int, contexts: Contexts, alone: float = ALONE
) -> list[Conversation]:
    """A context for each row; none (no turns) for a share of them, chosen by chance.

    Which context a row gets does not depend on what the row holds, so no label goes with one.

    Args:
        num_rows: how many rows there are.
        seed: of the draw.
        contexts: to draw from, each as likely as any other.
        alone: share of the rows that stay without.
    """
    random = np.random.default_rng((seed, num_rows))
    stays = random.permutation(num_rows) < round(alone * num_rows)
    # Dealt rather than drawn: rows that are few still meet as many contexts as there can be.
    rounds = -(-num_rows // len(contexts))
    dealt = np.concatenate([random.permutation(len(contexts)) for _ in range(max(1, rounds))])
    return [
        () if is_alone else contexts.each[place]
        for is_alone, place in zip(stays, dealt[:num_rows], strict=True)
    ]
