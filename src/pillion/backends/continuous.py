"""transformers' continuous batching: many requests in one model, paged KV cache, shared prefixes.

Scheduling, paging, chunked prefill and preemption are transformers'; here stands what it lacks: a
watcher of hidden states, draws and log-probabilities of each request's own, and a restart without
the prefix cache. Does not know what is done with the states.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.continuous_api import OutputRouter
from transformers.generation.continuous_batching.requests import RequestStatus
from transformers.generation.continuous_batching.scheduler import SCHEDULER_MAPPING

from pillion.backends import own_attention, packed_attention
from pillion.backends.faults import Faults, Scheduler
from pillion.backends.paged import (
    Chunk,
    EngineRequest,
    PagedSettings,
    PagedStep,
    PagedWatcher,
    SampledToken,
)
from pillion.backends.prefixes import salt_prefixes
from pillion.backends.request_sampling import RequestSampling, processors
from pillion.backends.routers import Router, in_order
from pillion.backends.self_test import SelfTest, watcher_of
from pillion.backends.steps import cache_given, named
from pillion.backends.transformers import TransformersBackend
from pillion.errors import ConfigError, RunError

FULL = "full_attention"


class ContinuousBatching:
    """A transformers model that runs many requests at once in a thread of its own.

    Args:
        backend: the model; nothing else may run it but inside `paused`.
        settings: sizes.
        deliver: called in the engine's thread after every step with what was drawn.

    Raises:
        ConfigError: the model or the sizes cannot be served.
    """

    def __init__(
        self,
        backend: TransformersBackend,
        settings: PagedSettings,
        deliver: Callable[[list[SampledToken]], None],
    ) -> None:
        self.backend, self.settings, self._deliver = backend, settings, deliver
        self._unchanged = backend.unchanged()
        self._engine_requests: dict[str, EngineRequest] = {}
        self._cached: dict[str, int] = {}
        self._hooks: list[Any] = []
        self._routed: dict[int, Tensor] = {}
        self._watchers: Sequence[PagedWatcher] = ()
        self._stepping: int | None = None  # the thread that runs a step of ours
        self._shape = torch.Size()
        self._sampling = RequestSampling(self._engine_requests)
        self._manager = self._make_manager()
        cache = self._manager.batch_processor.cache
        self._pages = cache.cache_allocators.get(FULL)
        if self._pages is None:
            self.close()
            raise ConfigError(
                f"Model {backend.identity.name!r} has sliding-window attention in every layer; the "
                "serving engine needs a layer that keeps all tokens. Serve another model."
            )
        self._cache = cache
        # Some ask for it to place tokens, although a step says where each of them stands.
        cache.get_seq_length = lambda *_: 0  # type: ignore[method-assign]
        self._faults = Faults(self._manager, self._trial)
        self._alone, self._started = threading.Lock(), False
        self._step_began, self._step_seconds = 0.0, 0.0
        self._test_itself()
        salt_prefixes(cache, self._salt_of)

    # -- sizes and counters

    @property
    def page_tokens(self) -> int:
        """Tokens a page; page p holds the slots from p times this on."""
        pages: Any = self._pages
        return pages.tokens_per_page

    @property
    def num_pages(self) -> int:
        """Pages of the cache, those included that are never given out."""
        pages: Any = self._pages
        return pages.cache_tensor.shape[0] // (pages.pages_per_block * pages.tokens_per_page)

    @property
    def capacity_tokens(self) -> int:
        """Tokens that a single request can have."""
        pages: Any = self._pages
        return pages.num_blocks * pages.tokens_per_page

    @property
    def waiting(self) -> int:
        """Requests that have not begun, or must begin again."""
        return len(self._scheduler.waiting_requests) + self._manager.input_queue.qsize()

    @property
    def running(self) -> int:
        """Requests that hold slots."""
        return len(self._scheduler.active_requests)

    @property
    def preemptions(self) -> int:
        """Requests that were put back and begun again."""
        return self._scheduler.preemptions

    def step_seconds(self) -> float | None:
        """How long steps took lately; None while there are none to take."""
        # A manager that has stopped has let go of its scheduler.
        if self._manager.batch_processor is None or not self._scheduler.has_pending_requests():
            return None
        return self._step_seconds

    def cached_tokens(self, request: str) -> int:
        """Prompt tokens of a request that came from the prefix cache."""
        return self._cached.get(request, 0)

    # -- life

    def start(self) -> None:
        """Begins to take steps; after a failure again, with nothing in flight or cached."""
        if self._started:
            self._cache.free_all_requests()
            self._cache.evict_cached_blocks()
            self._engine_requests.clear()
            self._cached.clear()
        with torch.inference_mode():
            self._manager.start()
        self._started = True

    @property
    def failure(self) -> str | None:
        """Why no step will be taken any more; None while they are, and before and after."""
        if not self._started or self._manager.is_running():
            return None
        return str(self._manager.background_thread_status.fatal_error or "its thread has ended")

    def close(self) -> None:
        """Stops after the step that runs now; what is in flight fails."""
        self._started = False
        if self._manager.is_running():
            self._manager.stop(block=True, hard_stop=True)
        self.backend.model.set_attn_implementation(self._attention)
        self._unhook()

    def add(self, engine_request: EngineRequest) -> None:
        """A request waits for its turn.

        Raises:
            RunError: the engine has failed or is closed.
        """
        self._engine_requests[engine_request.request] = engine_request
        taken = self._manager.is_running() and self._manager.add_request(
            list(engine_request.token_ids),
            request_id=engine_request.request,
            max_new_tokens=engine_request.max_tokens,
            streaming=True,
            eos_token_id=list(self.backend.end_ids),
        )
        if not taken:
            self.forget(engine_request.request)
            raise RunError("The engine has stopped; start it again, and see its log for the cause.")

    def cancel(self, request: str) -> None:
        """Ends a request; its slots are free from the next step on."""
        self._manager.cancel_request(request)
        self.forget(request)

    def forget(self, request: str) -> None:
        """A request is over."""
        self._engine_requests.pop(request, None)
        self._cached.pop(request, None)

    @contextmanager
    def paused(self) -> Generator[None]:
        """Between two steps: the model may be run, and watchers changed, by the caller.

        One caller at a time, and a step between two of them, if there is one to take.

        Raises:
            RunError: the engine has failed or is closed.
        """
        with self._alone:
            try:
                pause = self._manager.pause()
                pause.__enter__()
            except RuntimeError as error:
                raise RunError(f"The engine has stopped ({error}); start it again.") from error
            try:
                yield
            finally:
                pause.__exit__(None, None, None)

    @contextmanager
    def alone(self) -> Generator[None]:
        """As `paused`, to run the model.

        Raises:
            MismatchError: it is not the one that the engine began with.
        """
        with self.paused():
            self._unchanged()
            yield

    # -- only while paused

    def watch(self, watchers: Sequence[PagedWatcher]) -> None:
        """From the next step on these are shown hidden states, and no others."""
        self._unhook()
        self._watchers = watchers
        decoder, blocks = self.backend.decoder, self.backend.blocks
        self._hooks.append(decoder.register_forward_pre_hook(self._begin, with_kwargs=True))
        for watcher in watchers:
            for layer in watcher.layers:
                if layer < len(blocks):
                    hook = self._before(watcher, layer)
                    self._hooks.append(
                        blocks[layer].register_forward_pre_hook(hook, with_kwargs=True)
                    )
                elif layer == len(blocks):
                    hook = self._after(watcher, layer)
                    self._hooks.append(blocks[-1].register_forward_hook(hook, with_kwargs=True))
                else:
                    router = self.backend.routers[layer - len(blocks) - 1]
                    hook = self._after_router(layer, router)
                    self._hooks.append(router.module.register_forward_hook(hook))
        if watchers:
            self._hooks.append(decoder.register_forward_hook(self._end, with_kwargs=True))

    def restart(self) -> None:
        """Every request in flight begins again, and no prefix is taken from what was cached."""
        scheduler = self._scheduler
        for state in list(scheduler.active_requests.values()):
            scheduler.put_back(state)
        self._cache.evict_cached_blocks()

    # -- inside

    @property
    def _scheduler(self) -> Any:
        return self._manager.batch_processor.scheduler

    def _make_manager(self) -> Any:
        sizes = self.settings
        SCHEDULER_MAPPING["pillion"] = Scheduler
        config = ContinuousBatchingConfig(
            page_size=sizes.page_tokens,
            num_blocks=-(-sizes.cache_tokens // sizes.page_tokens),
            max_batch_tokens=sizes.max_chunk_tokens,
            max_requests_per_batch=min(sizes.max_requests, sizes.max_chunk_tokens),
            scheduler_type="pillion",
            # Hooks are Python: no captured graphs, and no step begun before the last one is read.
            max_blocks_per_request=0,
            use_async_batching=False,
            use_cuda_graph=False,
            auto_switch_to_flash=False,
        )
        plain = GenerationConfig(do_sample=False, eos_token_id=-1)
        self._attention = self.backend.model.config._attn_implementation
        if self._attention in (packed_attention.NAME, own_attention.NAME, own_attention.STEPS):
            raise ConfigError(
                f"Model {self.backend.identity.name!r} is served by another engine; close that one "
                "first, or load the model again."
            )
        try:
            with torch.inference_mode():
                manager: Any = self.backend.model.init_continuous_batching(plain, config)
                manager.logit_processor = processors(self._sampling)
                manager.output_router = _OutputRouter(self._hand_over)
                self._choose_attention()
                manager.warmup()  # makes the cache; no graph is captured
                self._attend_as_alone()
        except Exception as error:  # configurations of any kind are read here
            self.backend.model.set_attn_implementation(self._attention)
            words = str(error).strip().split("\n")[0].rstrip(".:")
            raise ConfigError(
                f"Model {self.backend.identity.name!r} cannot be served with {sizes}: {words}."
            ) from error
        return manager

    def _test_itself(self) -> None:
        """A few steps, whose states must be those of the model alone.

        Raises:
            ConfigError: they are not.
        """
        watcher = watcher_of(self.backend)
        self.watch([watcher])
        try:
            SelfTest(self.backend, self._manager, self.page_tokens, self.capacity_tokens).run(
                watcher
            )
        except ConfigError:
            self.close()
            raise
        with torch.inference_mode():  # its buffers were made so
            self._manager.batch_processor.reset()
        self._cache.evict_cached_blocks()
        self._sampling.clear()
        self.watch(())

    def _choose_attention(self) -> None:
        """Where the step would be masked, and nothing but causal attention is asked for."""
        config = self.backend.model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or [FULL])
        window = getattr(config, "sliding_window", None)
        if self._attention == "sdpa" and kinds == {FULL} and window is None:
            self.backend.model.set_attn_implementation(packed_attention.register())

    def _attend_as_alone(self) -> None:
        """A model with eager attention runs its own function, in steps and between them."""
        if self._attention == "eager":
            self.backend.model.set_attn_implementation(own_attention.register())

    def _salt_of(self, request: str) -> str:
        engine_request = self._engine_requests.get(request)
        # A request given up may run one more step: no other request shares its pages.
        return f"gone {request}" if engine_request is None else engine_request.salt

    def _hand_over(self, outputs: Sequence[Any]) -> None:
        took = time.perf_counter() - self._step_began
        self._step_seconds += 0.3 * (took - self._step_seconds)
        drawn = [
            self._drawn(output) for output in outputs if output.request_id in self._engine_requests
        ]
        for request in self._sampling.failed:  # it is over, and would run on to its limit
            self._scheduler.set_request_cancellation(request)
        self._sampling.clear()
        if drawn:
            self._deliver(drawn)

    def _drawn(self, output: Any) -> SampledToken:
        request = output.request_id
        if output.status == RequestStatus.FAILED:
            return SampledToken(request, failure=output.error or "unknown")
        if (why := self._sampling.failed.get(request)) is not None:
            return SampledToken(request, failure=why)
        token = output.generated_tokens[-1]
        over = None
        if output.is_finished():
            over = "stop" if token in self.backend.end_ids else "length"
        return SampledToken(request, token, over, None, *self._sampling.logprobs(request, token))

    def _trial(self) -> None:
        """Runs the model on one token, outside of the cache: raises where it cannot be run."""
        self.backend.forward(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1).bool())

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _begin(self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Notes whether a pass is a step of ours: others run the model while we are paused."""
        said = named(decoder, args, kwargs)
        ours = cache_given(said) is self._cache
        self._stepping = threading.get_ident() if ours else None
        if not ours:
            return
        self._step_began = time.perf_counter()
        self._check()
        ids = args[0] if args else kwargs["input_ids"]
        step, self._shape, self._routed = self._step(kwargs, ids), ids.shape, {}
        for chunk in step.chunks:
            if chunk.request in self._engine_requests:
                self._cached.setdefault(chunk.request, chunk.start)
        for watcher in self._watchers:
            watcher.start(step)

    def _check(self) -> None:
        """All requests of a step end if it runs other adapters than the steps before it."""
        self._faults.torn = True
        self._unchanged()
        self._faults.torn = False

    @property
    def _in_step(self) -> bool:
        return self._stepping == threading.get_ident()

    def _before(self, watcher: PagedWatcher, layer: int) -> Callable[..., None]:
        def show(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._in_step:
                watcher.see(layer, args[0] if args else kwargs["hidden_states"])

        return show

    def _after(self, watcher: PagedWatcher, layer: int) -> Callable[..., None]:
        def show(_: nn.Module, __: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if self._in_step:
                watcher.see(layer, output[0] if isinstance(output, tuple | list) else output)

        return show

    def _after_router(self, layer: int, router: Router) -> Callable[..., None]:
        dim = self.backend.identity.dim

        def show(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            if self._in_step:
                self._routed[layer] = router.state(output, self._shape, dim)

        return show

    def _end(self, _: nn.Module, __: tuple[Any, ...], kwargs: dict[str, Any], ___: Any) -> None:
        if self._in_step:
            self._stepping = None
            self._check()
            self._faults.torn = True
            last = len(self.backend.blocks)
            for watcher in self._watchers:
                routers = (layer for layer in watcher.layers if layer > last)
                for layer, state in in_order(routers, self._routed):
                    watcher.see(layer, state)
                watcher.end()
            self._faults.torn = False

    def _step(self, kwargs: dict[str, Any], ids: Int[Tensor, "1 token"]) -> PagedStep:
        pages: Any = self._pages
        chunks, first = list[Chunk](), 0
        for one in self._manager.batch_processor.inputs_and_outputs.requests_in_batch:
            count, draws = one.query_length, one.has_new_token
            start = one.state.position_offset - count  # moved on before the step
            chunks.append(Chunk(one.state.request_id, start, count, first, draws))
            first += count
        slots = self._slots(kwargs["write_index"][pages.index])
        read, bounds = kwargs["read_index"][pages.index], kwargs["cu_seq_lens_k"][FULL].tolist()

        def history(index: int) -> Int[Tensor, " past"]:
            # Nothing is read where every chunk is a prompt's first: then it is the whole history.
            places = self._slots(read) if len(read) else slots
            return places[bounds[index] : bounds[index + 1]]

        return PagedStep(tuple(chunks), slots, history, ids.flatten())

    def _slots(self, index: Int[Tensor, " token"]) -> Int[Tensor, " token"]:
        """From rows of the first layer's keys, which lie between all others, to tokens."""
        pages: Any = self._pages
        page = torch.div(index, pages.block_physical_stride, rounding_mode="floor")
        return page * pages.tokens_per_page + index % pages.block_physical_stride


class _OutputRouter(OutputRouter):
    """Hands the outputs of a step over together, in the engine's thread."""

    def __init__(self, hand_over: Callable[[Sequence[Any]], None]) -> None:
        super().__init__()
        self.hand_over = hand_over

    def deliver(self, output: Any) -> None:
        self.hand_over([output])

    def deliver_batch(self, outputs: list[Any]) -> None:
        self.hand_over(outputs)
