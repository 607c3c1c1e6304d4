"""A tiny deterministic engine that ships: for tests, examples and dry runs, without weights.

A byte is a token; states are a fixed random embedding mixed causally by a few random layers; the
next token is drawn from the last state. Nothing it says means anything.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pillion.backends.base import Backend, EarlyExitWatcher, Ids, Mask, Step, Tool, Watcher
from pillion.backends.grammar import Grammars, Matcher
from pillion.backends.watching import Passes, Watched
from pillion.core import Conversation, ModelIdentity, Segment, Template, Tokens, Turn
from pillion.errors import ConfigError, DataError

VOCAB = 258
START, END = 256, 257


class _Bytes:
    """The tokens of this model, for llguidance."""

    eos_token_id, bos_token_id = END, None
    tokens = (*(bytes([i]) for i in range(START)), b"<start>", b"<end>")
    special_token_ids = (START, END)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def _guided(guide: Any, _: Sequence[int]) -> Any:
    return guide.LLTokenizer(guide.TokenizerWrapper(_Bytes()))


@dataclass(eq=False)
class FakeCache:
    """Running sums of states a layer, and how many positions were seen."""

    tokens: int = 0
    sums: list[Tensor] = field(default_factory=list[Tensor])
    counts: Tensor | None = None


class FakeBackend(Backend):
    """A model of a few random causal layers over bytes.

    Args:
        num_layers: blocks.
        dim: width of a state.
        seed: of its weights; another seed is another model.
        context_tokens: longest text it takes.
    """

    def __init__(
        self, num_layers: int = 3, dim: int = 16, seed: int = 0, context_tokens: int = 512
    ) -> None:
        random = torch.Generator().manual_seed(seed)
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.embeddings = torch.randn(VOCAB, dim, generator=random)
        self.mixers = [
            torch.randn(2 * dim, dim, generator=random) / (2 * dim) ** 0.5
            for _ in range(num_layers)
        ]
        self.end_ids, self.vocab_size = frozenset([END]), VOCAB
        self._identity = ModelIdentity(
            name=f"fake-{seed}",
            weights_sha256=f"fake-weights-{seed}-{num_layers}-{dim}",
            tokenizer_sha256="bytes",
            template_sha256="start-text-start",
            num_layers=num_layers,
            dim=dim,
            dtype="float32",
            context_tokens=context_tokens,
        )
        self._grammars = Grammars(_guided, self.end_ids)
        self._passes = Passes()
        self._layers: dict[Watched, frozenset[int]] = {}
        self._watcher: EarlyExitWatcher | None = None

    @property
    def identity(self) -> ModelIdentity:
        """Of its seed and sizes."""
        return self._identity

    def encode(self, text: str, template: Template) -> Tokens:
        """Bytes; a chat turn stands between two start tokens."""
        if template == "raw":
            return Tokens(text.encode())
        return self.encode_chat((Turn("user", text),))

    def encode_chat(self, turns: Conversation, tools: Sequence[Tool] = ()) -> Tokens:
        """A start token before every turn and one before the answer; roles have no tokens."""
        if tools:
            raise ConfigError("The fake model calls no tools; leave them out.")
        ids: list[int] = []
        segments: list[Segment] = []
        for place, turn in enumerate(turns):
            ids.append(START)
            words = turn.content.encode()
            segments.append(Segment(len(ids), len(ids) + len(words), turn.role, place))
            ids += words
        if turns[-1].role == "assistant":
            if len(turns) == 1:
                raise DataError(
                    "the conversation begins with the answer; give the turn that it answers too."
                )
            return Tokens(ids, segments)
        return Tokens([*ids, START], segments)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The bytes as text, without special tokens."""
        return bytes(i for i in token_ids if i < START).decode(errors="replace")

    def matcher(self, grammar: str) -> Matcher:
        """Follows an answer through a grammar; see `Backend.matcher`."""
        return self._grammars.matcher(grammar)

    def unembed(self, hidden: Float[Tensor, "*lead dim"]) -> Float[Tensor, "*lead vocab"]:
        """Logits of states of the last layer; see `Backend.unembed`."""
        return hidden.float() @ self.embeddings.T

    def new_cache(self) -> object:
        """A cache of no row and no token yet; see `Backend.new_cache`."""
        return FakeCache()

    def fork(self, cache: object, num_rows: int) -> object:
        """Copies of the only row of a cache; see `Backend.fork`."""
        assert isinstance(cache, FakeCache) and cache.counts is not None
        sums = [one.repeat(num_rows, 1, 1) for one in cache.sums]
        return FakeCache(cache.tokens, sums, cache.counts.repeat(num_rows, 1, 1))

    @torch.inference_mode()
    def forward(
        self,
        token_ids: Int[Tensor, "batch chunk"],
        mask: Bool[Tensor, "batch total"],
        cache: object | None = None,
        logits: bool = False,
        watched_only: bool = False,
    ) -> Float[Tensor, "batch vocab"] | None:
        """Runs one chunk; see `Backend.forward`."""
        assert cache is None or isinstance(cache, FakeCache)
        past = cache or FakeCache()
        seen = mask[:, -token_ids.shape[1] :]
        step = Step(seen, cache, past.tokens, ids=token_ids)
        with self._passes.lock:
            try:
                for one in self._passes.watched:
                    one.start(cache, lambda: step)
                hidden = self._run(
                    token_ids, seen, past, self._highest(cache is None or watched_only, logits)
                )
                for one in self._passes.watched:
                    if one.passing:
                        one.end(cache, self._passes)
            finally:
                for one in self._passes.watched:
                    one.fail()
        return hidden[:, -1] @ self.embeddings.T if logits else None

    def check_early_exit(self) -> None:
        """Returns: rows can leave."""

    @torch.inference_mode()
    def run_early_exit(
        self, watcher: EarlyExitWatcher, layers: Sequence[int], token_ids: Ids, mask: Mask
    ) -> None:
        """Runs whole rows, which leave as the watcher says; see `Backend.run_early_exit`."""
        with self._passes.lock, self.watch(watcher, layers):
            self._watcher = watcher
            try:
                self.forward(token_ids, mask)
            finally:
                self._watcher = None

    def _staying(self, layer: int) -> Int[Tensor, " row"] | slice:
        if self._watcher is None or layer not in self._watcher.stops:
            return slice(None)
        staying = self._watcher.staying(layer)
        self._passes.watched[-1].shrink(len(staying))
        return staying

    def _run(
        self,
        token_ids: Int[Tensor, "batch chunk"],
        seen: Bool[Tensor, "batch chunk"],
        past: FakeCache,
        num_layers: int,
    ) -> Float[Tensor, "left chunk dim"]:
        """The first layers: each mixes a state with the mean of the states before it."""
        weight = seen[..., None].float()
        count = weight.cumsum(1) + (0 if past.counts is None else past.counts)
        hidden, sums = self.embeddings[token_ids], past.sums or [torch.zeros(())] * len(self.mixers)
        past.sums = []
        self._show(0, hidden)
        mixers = zip(self.mixers[:num_layers], sums[:num_layers], strict=True)
        for layer, (mixer, before) in enumerate(mixers, start=1):
            rows = self._staying(layer - 1)
            hidden, weight, count = hidden[rows], weight[rows], count[rows]
            if not len(hidden):
                break
            total = (hidden * weight).cumsum(1) + before
            past.sums.append(total[:, -1:])
            hidden = hidden + torch.tanh(
                torch.cat([hidden, total / count.clamp(min=1)], -1) @ mixer
            )
            self._show(layer, hidden)
        past.tokens, past.counts = past.tokens + token_ids.shape[1], count[:, -1:]
        return hidden

    def _highest(self, watched_only: bool, logits: bool) -> int:
        mine = self._passes.mine()
        if logits or not watched_only or not mine:
            return len(self.mixers)
        return max(one.top for one in mine)

    def _show(self, layer: int, hidden: Float[Tensor, "batch chunk dim"]) -> None:
        for one in self._passes.watched:
            if one.passing and layer in self._layers[one]:
                one.watcher.see(layer, hidden)

    @contextmanager
    def watch(self, watcher: Watcher, layers: Sequence[int]) -> Generator[None]:
        """Shows the watcher these layers of its own passes, until the context ends."""
        one = Watched(watcher, max(layers, default=0))
        with self._passes.lock:
            self._layers[one] = frozenset(layers)
            self._passes.watched.append(one)
        try:
            yield
        finally:
            with self._passes.lock:
                self._passes.watched.remove(one)
                del self._layers[one]
                one.release()
