"""Hugging Face transformers as an engine: any decoder-only causal LM, loaded or the user's own.

Hidden states are read by hooks on the decoder's blocks: the input of block l is layer l, the
output of the last block is layer N, before the final norm. Does not know what is done with them.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pillion.backends.adapters import (
    ActiveAdapters,
    Unchanged,
    active_adapters,
    check_adapters,
    fingerprint,
    unwrapped,
)
from pillion.backends.base import Backend, EarlyExitWatcher, Ids, Mask, Step, Tool, Watcher
from pillion.backends.codec import Codec
from pillion.backends.early_exit import RowDims, leaving, seen_to_leave
from pillion.backends.generating import Generating
from pillion.backends.grammar import Grammars, Matcher, guided_tokenizer
from pillion.backends.identity import device_of, end_ids, find_blocks, identify
from pillion.backends.positions import check_positions, takes_positions
from pillion.backends.prefill import Prefill
from pillion.backends.routers import find_routers
from pillion.backends.steps import CACHE_WORDS, cache_given, named, past_tokens, step_of
from pillion.backends.training_mode import check_mode, drawing_modules
from pillion.backends.watching import Passes, Watched, passes_of, uncompiled
from pillion.core import Conversation, ModelIdentity, Template, Tokens
from pillion.core.arithmetic import as_given
from pillion.errors import ConfigError, MismatchError

FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f")
"""What the norm between the last block and the head is called in transformers."""
PADDING_COUNTS = ("recurrent_gemma",)
"""Kinds that take positions, and yet run padding before a text through a recurrence."""
FOREIGN_CACHE = ("not compatible with `", "'DynamicCache' object has no attribute")
"""What models with a cache of their own say of the usual one."""


class TransformersBackend(Backend):
    """A transformers causal LM and its tokenizer.

    Args:
        model: any decoder-only causal LM of transformers 5.
        tokenizer: its tokenizer; None for a model that is only watched.
        name: as the user names the model.
        stored_dtype: of the weights before the model was loaded in a wider one; None if it was not.

    Attributes:
        cache_word: the keyword that the model takes its KV cache by.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        name: str = "",
        stored_dtype: torch.dtype | None = None,
    ) -> None:
        model = unwrapped(model)
        self.model, self.tokenizer = model, tokenizer
        self.decoder, self.blocks = find_blocks(model)
        self.routers = find_routers(self.decoder, self.blocks)
        self.device, self.dtype = device_of(model), next(model.parameters()).dtype
        self._name, self._stored_dtype = name, stored_dtype or self.dtype
        self._identity = self._identify()
        self.codec = Codec(tokenizer, self.identity.name)
        self.end_ids = end_ids(model, tokenizer)
        self.vocab_size = model.get_input_embeddings().weight.shape[0]
        self._grammars = Grammars(partial(guided_tokenizer, tokenizer), self.end_ids)
        self._passes, self._prefill = passes_of(self.decoder), Prefill.of(model)
        self._generating = Generating.of(model)
        known = inspect.signature(self.decoder.forward).parameters
        self.cache_word = next((w for w in CACHE_WORDS if w in known), CACHE_WORDS[-1])
        self._takes_cache = self.cache_word in known
        kind = getattr(self.decoder.config, "model_type", "")
        self._counts_padding = not takes_positions(self.decoder) or kind in PADDING_COUNTS

    @property
    def identity(self) -> ModelIdentity:
        """Of the model with the weights that it has, and the adapters that are active, now."""
        if self._as_it_is() != self._now:
            self._identity = self._identify()
        return self._identity

    def _as_it_is(self) -> tuple[ActiveAdapters, int]:
        """What changes with the model's weights: adapters, and how often weights were written."""
        every = (one for held in self._held for one in held.values() if one is not None)
        written = (one._version for one in every if not (one.is_meta or one.is_inference()))
        return active_adapters(self.model), sum(written)

    def unchanged(self) -> Callable[[], None]:
        """A check that the same adapters are active, and none drops; see `Backend.unchanged`."""
        check_adapters = Unchanged(self.model)

        def check() -> None:
            check_adapters()
            check_mode(self._drawing)

        return check

    def _identify(self) -> ModelIdentity:
        self._drawing = drawing_modules(self.model)
        # To walk through all modules each time would take milliseconds.
        self._held = [vars(module)["_parameters"] for module in self.model.modules()]
        self._now = self._as_it_is()
        found = identify(
            self.model,
            self.tokenizer,
            self._name,
            len(self.blocks),
            self._stored_dtype,
            fingerprint(self.model),
            self._now[0],
        )
        return replace(found, num_routers=len(self.routers))

    def encode(self, text: str, template: Template) -> Tokens:
        """Token ids of a text, wrapped as the template says; see `Codec.encode`."""
        return self.codec.encode(text, template)

    def encode_chat(self, turns: Conversation, tools: Sequence[Tool] = ()) -> Tokens:
        """Token ids of a conversation; see `Codec.encode_chat`."""
        return self.codec.encode_chat(turns, tools)

    @property
    def chat_template(self) -> str:
        """The chat template's own text; see `Codec.chat_template`."""
        return "" if self.tokenizer is None else self.codec.chat_template

    def hidden_id(self, mark: str) -> int | None:
        """The token that is this mark, if `decode` leaves it out; see `Codec.hidden_id`."""
        return None if self.tokenizer is None else self.codec.hidden_id(mark)

    @property
    def reasoning_ids(self) -> tuple[int, int] | None:
        """The tokens around the reasoning in an answer; see `Codec.reasoning_ids`."""
        return None if self.tokenizer is None else self.codec.reasoning_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return self.codec.decode(token_ids)

    def matcher(self, grammar: str) -> Matcher:
        """Follows an answer through a grammar; see `Backend.matcher`."""
        return self._grammars.matcher(grammar)

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
        if cache is not None and not self._takes_cache:
            raise ConfigError(
                f"{type(self.model).__name__} keeps no KV cache, so that it cannot go on from "
                "tokens that have run; score whole texts with it, or generate with another model."
            )
        # Without padding the engine takes its fast causal path if it is given no mask.
        full = bool(mask.all())
        if not (full or logits) and cache is None and self._counts_padding:
            # Behind a text padding cannot matter.
            token_ids, mask = _to_the_left(token_ids, mask)
        ids = token_ids.to(self.device)
        positions = None if full else (mask.long().cumsum(1) - 1).clamp(min=0)
        keywords: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": None if full else mask.to(self.device).long(),
            "position_ids": (
                None if positions is None else positions[:, -ids.shape[1] :].to(self.device)
            ),
            self.cache_word: cache,
            "use_cache": cache is not None,
        }
        with self._passes.lock, as_given(self.device):
            try:
                if logits:
                    return self.model(**keywords, logits_to_keep=1).logits[:, -1]
                with self._early_exit(possible=cache is None or watched_only):
                    self.decoder(**keywords)
            except (ValueError, AttributeError) as error:
                if not any(words in str(error) for words in FOREIGN_CACHE):
                    raise
                raise ConfigError(
                    f"{type(self.model).__name__} keeps a cache of its own kind; score whole texts "
                    "with it, or generate with its own `generate`, with the probes attached."
                ) from error
        return None

    def check_early_exit(self) -> None:
        """Returns if rows can leave a pass of this model; see `Backend.check_early_exit`."""
        if isinstance(self._leaving, str):
            raise ConfigError(
                f"Texts cannot leave {type(self.model).__name__} early: {self._leaving}; turn "
                "exits off."
            )

    def run_early_exit(
        self, watcher: EarlyExitWatcher, layers: Sequence[int], token_ids: Ids, mask: Mask
    ) -> None:
        """Runs whole rows, which leave as the watcher says; see `Backend.run_early_exit`."""
        self.check_early_exit()
        assert not isinstance(self._leaving, str)
        self._run_early_exit(watcher, layers, token_ids, mask, self._leaving)

    def _run_early_exit(
        self,
        watcher: EarlyExitWatcher,
        layers: Sequence[int],
        token_ids: Ids,
        mask: Mask,
        dims: RowDims,
    ) -> None:
        with self._passes.lock, self.watch(watcher, layers):
            shown = self._passes.watched[-1]
            with leaving(self.blocks, watcher, shown, dims, len(mask)):
                self.forward(token_ids, mask)

    @cached_property
    def _leaving(self) -> RowDims | str:
        """Where blocks are given rows, once it was seen that they can leave; or why they cannot."""
        with self._passes.lock:
            return seen_to_leave(self, self._run_early_exit, self.blocks)

    @torch.inference_mode()
    def unembed(self, hidden: Float[Tensor, "*lead dim"]) -> Float[Tensor, "*lead vocab"]:
        """Logits of states of the last layer; see `Backend.unembed`.

        Raises:
            ConfigError: the model does more to a state than a final norm and a linear head.
        """
        return self._head(hidden.to(self.device, self.dtype)).float()

    @cached_property
    def _head(self) -> nn.Sequential:
        """Final norm and output embeddings, once they have been seen to give the model's logits."""
        norms = [getattr(self.decoder, name, None) for name in FINAL_NORMS]
        parts = [*filter(None, norms), self.model.get_output_embeddings()]
        if len(parts) == 2 and parts[1] is not None:
            head = nn.Sequential(*parts)
            tokens = torch.arange(1, 9)[None]
            last = _LastLayer()
            with self.watch(last, [len(self.blocks)]):
                wanted = self.forward(tokens, torch.ones_like(tokens, dtype=torch.bool), None, True)
            assert wanted is not None and last.hidden is not None
            if torch.allclose(head(last.hidden[:, -1]), wanted, rtol=1e-2, atol=1e-2):
                return head
        raise ConfigError(
            f"{type(self.model).__name__} does more than a final norm and a linear head before "
            "its logits; use a model of the Llama kind for what reads logits."
        )

    def new_cache(self) -> object:
        """An empty KV cache."""
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    @property
    def forks(self) -> bool:
        """Whether every layer keeps plain keys and values; see `Backend.forks`."""
        from transformers.cache_utils import DynamicCache, DynamicLayer

        if not self._takes_cache:
            return False
        layers = DynamicCache(config=self.model.config).layers
        return all(type(layer) is DynamicLayer for layer in layers)

    def fork(self, cache: object, num_rows: int) -> object | None:
        """Copies of the only row of a cache, where every layer keeps plain keys and values."""
        from transformers.cache_utils import DynamicCache, DynamicLayer

        assert isinstance(cache, DynamicCache)
        if any(type(layer) is not DynamicLayer for layer in cache.layers):
            return None
        copied = copy.deepcopy(cache)
        copied.batch_repeat_interleave(num_rows)
        return copied

    @contextmanager
    def watch(self, watcher: Watcher, layers: Sequence[int]) -> Generator[None]:
        """Shows the watcher these layers of its own passes; leaves no hook behind."""
        last = len(self.blocks)
        routers = [layer for layer in layers if layer > last]
        tops = [self.routers[i - last - 1].block + 1 if i > last else i for i in layers]
        one = Watched(watcher, max(tops, default=last), routers)
        decoder, passes = self.decoder, self._passes
        unchanged = partial(self._check_pass, active_adapters(self.model))
        with passes.lock:
            passes.watched.append(one)
            handles = [
                decoder.register_forward_pre_hook(
                    _starter(one, passes, unchanged, self._prefill, self._generating),
                    with_kwargs=True,
                ),
                *(self._show(one, layer) for layer in layers),
                decoder.register_forward_hook(
                    _ender(one, passes, self.cache_word, self._generating),
                    with_kwargs=True,
                    always_call=True,
                ),
            ]
        try:
            with uncompiled(), self._prefill.followed(), self._generating.followed():
                yield
        finally:
            with passes.lock:
                passes.watched.remove(one)
                for handle in handles:
                    handle.remove()
                one.release()

    def _check_pass(self, adapters: ActiveAdapters) -> None:
        """Returns if a pass that begins now is one of the model that is watched.

        Raises:
            MismatchError: other adapters are active, or it is computed in another dtype.
            StateError: it draws by chance.
        """
        check_adapters(self.model, adapters)
        check_mode(self._drawing)
        if (moved := next(self.model.parameters()).dtype) != self.dtype:
            raise MismatchError(
                f"The model was turned to {str(moved).removeprefix('torch.')} after its probes "
                f"were attached, and they belong to it in {str(self.dtype).removeprefix('torch.')};"
                " attach them again."
            )
        kind = self.device.type
        if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) != self.dtype:
            other = str(torch.get_autocast_dtype(kind)).removeprefix("torch.")
            raise MismatchError(
                f"The pass runs under torch.autocast in {other}, and the model to which its probes "
                f"belong is {str(self.dtype).removeprefix('torch.')}; run it outside of autocast, "
                f"or load the model, and train the probes, in {other}."
            )

    @contextmanager
    def _early_exit(self, possible: bool) -> Generator[None]:
        """Ends a pass whose only purpose is to be watched, once all has been seen."""
        mine = self._passes.mine()
        top = max((one.top for one in mine), default=len(self.blocks))
        if not possible or top == len(self.blocks) or self._loops:
            yield
            return
        # Hooks run in the order they came: the watchers have seen the block's input by now.
        handle = self.blocks[top].register_forward_pre_hook(_stopper())
        try:
            with suppress(_AllLayersSeen):
                yield
        finally:
            handle.remove()
        for one in mine:
            one.end(None, self._passes)

    @cached_property
    def _loops(self) -> bool:
        """Whether a pass runs the blocks more than once: the first time is not a layer's state."""
        runs: list[int] = []

        def count(_: nn.Module, __: tuple[Any, ...]) -> None:
            runs.append(1)

        handle = self.blocks[0].register_forward_pre_hook(count)
        self._passes.quiet = threading.get_ident()
        try:
            one = torch.ones(1, 1, dtype=torch.long, device=self.device)
            self.decoder(input_ids=one, use_cache=False)
        finally:
            self._passes.quiet = None
            handle.remove()
        return len(runs) > 1

    def _show(self, one: Watched, layer: int) -> Any:
        if layer > len(self.blocks):
            return self._show_router(one, layer)
        if layer < len(self.blocks):

            def before(_: nn.Module, args: tuple[Any, ...], kwargs: Any = None) -> None:
                if one.passing:
                    one.see(layer, args[0] if args else kwargs["hidden_states"])

            return self.blocks[layer].register_forward_pre_hook(before, with_kwargs=True)

        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if one.passing:
                one.see(layer, output)

        return self.blocks[-1].register_forward_hook(after)

    def _show_router(self, one: Watched, layer: int) -> Any:
        router, dim = self.routers[layer - len(self.blocks) - 1], self.identity.dim

        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if one.passing:
                one.see_router(layer, lambda shape: router.state(output, shape, dim))

        return router.module.register_forward_hook(after)


def _to_the_left(ids: Ids, mask: Mask) -> tuple[Ids, Mask]:
    """The tokens of every row from its first place on, padding behind them."""
    order = (~mask).long().argsort(dim=1, stable=True)
    return ids.gather(1, order.to(ids.device)), mask.gather(1, order)


class _AllLayersSeen(Exception):
    """Ends a pass: all layers that watchers read have run."""


def _stopper() -> Callable[..., None]:
    """Ends a pass of this thread."""
    thread = threading.get_ident()

    def stop(_: nn.Module, __: tuple[Any, ...]) -> None:
        if threading.get_ident() == thread:
            raise _AllLayersSeen

    return stop


class _LastLayer:
    """Keeps the states of the last layer of one pass."""

    def __init__(self) -> None:
        self.hidden: Tensor | None = None

    def start(self, step: Step) -> None:
        """Nothing to prepare."""

    def see(self, layer: int, hidden: Float[Tensor, "batch chunk dim"]) -> None:
        """Keeps them."""
        self.hidden = hidden.clone()

    def end(self, cache: object | None) -> None:
        """Nothing to do."""

    def move(self, cache: object, rows: Int[Tensor, " row"]) -> None:
        """Nothing to move."""


# torch adds a hook in several steps: a pass that another thread runs meanwhile may call it without
# its keyword arguments. Such a pass belongs to no watcher.


def _starter(
    one: Watched,
    passes: Passes,
    unchanged: Callable[[], None],
    prefill: Prefill,
    generating: Generating,
) -> Callable[..., None]:
    def step(decoder: nn.Module, said: dict[str, Any]) -> Step:
        found = generating.follow(step_of(decoder, said, passes.counted))
        return replace(found, more_prompt=True) if prefill.goes_on(found.past_tokens) else found

    def start(
        decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> None:
        if kwargs is not None and passes.quiet != threading.get_ident():
            said = named(decoder, args, kwargs)
            cache = cache_given(said)
            if not one.sees(cache) or generating.beside(cache):
                return
            unchanged()
            if cache is None or past_tokens(cache, passes.counted) == 0:
                check_positions(decoder, said, passes)
            one.start(cache, lambda: step(decoder, said))

    return start


def _ender(one: Watched, passes: Passes, word: str, generating: Generating) -> Callable[..., None]:
    def end(decoder: nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
        if not one.passing:
            return
        kwargs, output = rest
        if output is None:  # the pass has failed, or was ended early
            one.fail()
            return
        cache = getattr(output, word, None)
        # A tuple, or use_cache=False: a cache that came in is filled all the same.
        cache = cache_given(named(decoder, args, kwargs)) if cache is None else cache
        generating.goes_on(cache)  # some models give another one than they were given
        one.end(cache, passes)

    return end
