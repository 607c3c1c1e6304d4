"""The contract of an engine: text to tokens, tokens through the model, hidden states to a watcher.

A backend shows every layer's states where they are born and keeps none; it does not know what is
done with them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pillion.backends.grammar import Matcher
from pillion.core import Conversation, ModelIdentity, Template, Tokens
from pillion.errors import ConfigError

Tool = Mapping[str, Any]
"""What a model may call, as chat templates take it: type, and function with name, description and
parameters (a JSON schema)."""


Ids = Int[Tensor, "batch token"]
"""Tokens of whole rows; what stands in the padding does not matter."""

Mask = Bool[Tensor, "batch token"]
"""Which positions of whole rows hold a token."""


@dataclass(frozen=True)
class Step:
    """One forward pass of the model, as a watcher sees it begin.

    Attributes:
        mask: which of this chunk's positions hold a token (not padding).
        cache: the KV cache that the pass goes on from; None if it starts afresh.
        past_tokens: positions that the cache already holds, padding included.
        sequences: for a packed batch, which one each position belongs to (ascending from 0); None
            where every batch row is one sequence.
        ids: the tokens; None where embeddings came in their place.
        more_prompt: whether it is known to go on with the prompt that the pass before it ran.
        new_prompt: whether it is known to begin a prompt; what the cache holds stands before that.
    """

    mask: Bool[Tensor, "batch chunk"]
    cache: object | None
    past_tokens: int
    sequences: Int[Tensor, " chunk"] | None = None
    ids: Int[Tensor, "batch chunk"] | None = None
    more_prompt: bool = False
    new_prompt: bool = False


@runtime_checkable
class Watcher(Protocol):
    """An observer of hidden states while the model runs."""

    def start(self, step: Step) -> None:
        """A forward pass begins."""
        ...

    def see(self, layer: int, hidden: Float[Tensor, "batch chunk dim"]) -> None:
        """The residual stream after the first `layer` blocks. Not to be kept or changed."""
        ...

    def end(self, cache: object | None) -> None:
        """The pass is over; `cache` is the KV cache that now holds its tokens, if any."""
        ...

    def move(self, cache: object, rows: Int[Tensor, " row"]) -> None:
        """The engine reordered or repeated the rows of a KV cache, as beam search does."""
        ...


@runtime_checkable
class EarlyExitWatcher(Watcher, Protocol):
    """A watcher that lets rows of the batch leave the pass between two blocks.

    Attributes:
        stops: layers behind which it may do so, of those that it is shown, below the last.
    """

    stops: tuple[int, ...]

    def staying(self, layer: int) -> Int[Tensor, " row"]:
        """Which rows go on, by their places among those that are left; asked once a stop is seen.

        From there on it is shown these rows alone, in this order. Where none stays the pass ends.
        """
        ...


@runtime_checkable
class Coder(Protocol):
    """Texts and conversations to tokens and back: a backend, or a tokenizer alone."""

    def encode(self, text: str, template: Template) -> Tokens:
        """Token ids of a text, wrapped as the template says."""
        ...

    @property
    def chat_template(self) -> str:
        """The chat template's own text, of those that there are the one for tools."""
        ...

    def hidden_id(self, mark: str) -> int | None:
        """The token that is this mark, if `decode` leaves it out."""
        ...

    def encode_chat(self, turns: Conversation, tools: Sequence[Tool] = ()) -> Tokens:
        """Token ids of a conversation up to where the answer begins, with their turns."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        ...


class Backend(ABC):
    """An engine that runs a causal language model; many threads may call it.

    It runs one pass at a time: a call that comes while one runs waits.

    Law: `see(i, ...)` is shown what transformers calls `hidden_states[i]`, except that the last
    layer is shown before the final norm.

    Attributes:
        device: where it runs.
        dtype: that it computes in, and of the states: as stored, or wider.
        end_ids: tokens that end an answer.
        vocab_size: token ids are below this.
    """

    device: torch.device
    dtype: torch.dtype
    end_ids: frozenset[int]
    vocab_size: int

    @property
    @abstractmethod
    def identity(self) -> ModelIdentity:
        """Of the model as it is now; its `dtype` is that of the weights as they are stored."""

    def unchanged(self) -> Callable[[], None]:
        """A check that this is still the model that it is now, for every pass of an engine.

        It raises a MismatchError once other adapters take part, and a StateError in training mode.
        """
        return lambda: None

    @abstractmethod
    def encode(self, text: str, template: Template) -> Tokens:
        """Token ids of a text, wrapped as the template says."""

    @property
    def chat_template(self) -> str:
        """The chat template's own text; empty for a model that has none."""
        return ""

    def hidden_id(self, mark: str) -> int | None:
        """The token that is this mark, if `decode` leaves it out; None for none."""
        return None

    @abstractmethod
    def encode_chat(self, turns: Conversation, tools: Sequence[Tool] = ()) -> Tokens:
        """Token ids of a conversation up to where the answer begins, with their turns.

        A single turn of the user gives what `encode` gives with the template `chat`. A last turn
        of the assistant stands as if it had been generated, without an end.

        Law: control tokens that are spelled in a turn's words are read as text.

        Args:
            turns: the conversation.
            tools: what the model may call, for the chat template.

        Raises:
            ConfigError: the model has no chat template, or one that refuses this conversation.
            DataError: words that the template changes, no turn before the answer, or a tool that
                spells a control token.
        """

    @property
    def reasoning_ids(self) -> tuple[int, int] | None:
        """The tokens around the reasoning in a generated answer; None if it has no such tokens."""
        return None

    @abstractmethod
    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""

    @abstractmethod
    def forward(
        self,
        token_ids: Int[Tensor, "batch chunk"],
        mask: Bool[Tensor, "batch total"],
        cache: object | None = None,
        logits: bool = False,
        watched_only: bool = False,
    ) -> Float[Tensor, "batch vocab"] | None:
        """Runs one chunk through the model.

        Without a cache and logits only watchers learn something: no block above the highest layer
        that they watch is run.

        Args:
            token_ids: this chunk; padding anywhere (its ids do not matter).
            mask: which positions hold a token, those already in the cache included.
            cache: of `new_cache`, filled in place; None to keep nothing.
            logits: whether to compute the next-token logits of the last position.
            watched_only: no block above the highest layer watched is run with a cache either; such
                a cache serves no other use.
        """

    def check_early_exit(self) -> None:
        """Returns if rows can leave a pass between two blocks; see `run_early_exit`.

        Raises:
            ConfigError: they cannot, in this engine or with this model's architecture.
        """
        raise ConfigError(f"{type(self).__name__} cannot let texts leave early; turn exits off.")

    def run_early_exit(
        self, watcher: EarlyExitWatcher, layers: Sequence[int], token_ids: Ids, mask: Mask
    ) -> None:
        """Shows the watcher one pass over whole rows, which leave it when the watcher says so.

        Law: what is shown of a row is what `watch` and `forward` show of it, whichever rows leave.

        Args:
            watcher: the watcher.
            layers: that it is shown.
            token_ids: padding anywhere (its ids do not matter).
            mask: which positions hold a token.

        Raises:
            ConfigError: as of `check_early_exit`.
        """
        self.check_early_exit()

    def unembed(self, hidden: Float[Tensor, "*lead dim"]) -> Float[Tensor, "*lead vocab"]:
        """Next-token logits of states of the last layer (before the final norm), in fp32.

        Law: `forward(..., logits=True)` of a text equals this of its last token's state.

        Raises:
            ConfigError: the engine gives no access to its head.
        """
        raise ConfigError(
            f"{type(self).__name__} gives no logits of states; use a transformers model."
        )

    def matcher(self, grammar: str) -> Matcher:
        """Follows an answer through a grammar; see `backends.grammar`.

        Raises:
            ConfigError: llguidance is missing, the grammar cannot be followed, or none can.
        """
        raise ConfigError(
            f"{type(self).__name__} follows no grammars; leave the wanted form out, or use a model "
            "of transformers."
        )

    @abstractmethod
    def new_cache(self) -> object:
        """An empty KV cache."""

    @property
    def forks(self) -> bool:
        """Whether this model's caches can be copied, so that `fork` gives one."""
        return True

    @abstractmethod
    def fork(self, cache: object, num_rows: int) -> object | None:
        """A new KV cache with that many copies of the only row of another, which stays as it is.

        None for a model whose caches cannot be copied.
        """

    @abstractmethod
    def watch(self, watcher: Watcher, layers: Sequence[int]) -> AbstractContextManager[None]:
        """Shows the watcher these layers of its own passes, until the context ends.

        Its own are those of the thread (and task of an event loop) that entered the context, and
        those that go on from a KV cache of its own, in any thread.
        """
