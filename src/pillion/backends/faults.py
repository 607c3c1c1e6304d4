"""A step that fails: the request that made it fail ends, and all others go on.

In the place of the body of transformers' generation loop, where any error would end all requests.
Knows requests by their ids, nothing of tokens or hidden states.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from transformers.generation.continuous_batching.scheduler import FIFOScheduler

LOG = logging.getLogger("pillion.engine")
MOST_STRIKES = 2
"""Steps with others that may fail with a request in them before it ends with their error: then it
is not its own fault (memory, mostly), and yet it cannot be run."""


class Scheduler(FIFOScheduler):
    """transformers' own, with a counter, suspects and one repair.

    After a preemption new requests wait until one finishes; cancelling the last one left them
    waiting for ever (transformers 5.24).

    Attributes:
        preemptions: requests that were put back and begun again.
        suspects: ids of those that were in a step that failed, and how often; while there are any,
            each of them runs alone.
    """

    preemptions = 0

    def reset(self) -> None:
        """Forgets all requests, and which of them are suspected or cleared of a fault."""
        super().reset()
        self.suspects: dict[str, int] = {}
        self.cleared: set[str] = set()

    def add_waiting_request(self, state: Any) -> None:
        """A request waits for its turn, for the first time or again."""
        self.preemptions += bool(state._true_initial_tokens)
        super().add_waiting_request(state)

    def put_back(self, state: Any) -> None:
        """A request begins again, with the tokens that it has; nothing of it stays in the cache."""
        self.cache.free_blocks(state.request_id, no_cache=True)
        self.finish_request(state.request_id)
        self.add_waiting_request(state.create_equivalent_initial_request())

    def clear_cancelled_requests(self) -> list[Any]:
        """Forgets those that were given up, and lets new ones begin."""
        gone = super().clear_cancelled_requests()
        if gone:
            self.block_new_requests = False
        return gone

    def schedule_batch(self, token_budget: int, cache_budget: int) -> Any:
        """The next step: a suspect request alone, or what transformers schedules.

        The others wait for a suspect and give nothing up meanwhile: where it finds no room, they
        begin again behind it.
        """
        suspect = self._next_suspect()
        if suspect is None:
            return super().schedule_batch(token_budget, cache_budget)
        while (found := self._alone(suspect, token_budget, cache_budget))[0] is None:
            others = [one for one in self.active_requests.values() if one is not suspect]
            if not others:
                break
            self.put_back(others[-1])
        return found

    def _alone(self, suspect: Any, token_budget: int, cache_budget: int) -> Any:
        """The step of one request; None in its place where the cache has no room for it."""
        gone = set[str]()
        step, failed, fast, tokens, read = self._process_candidates(
            [suspect], token_budget, cache_budget, gone
        )
        self._cleanup_waiting_queue(gone)
        return (None, fast, 0, 0) if failed and not step else (step, fast, tokens, read)

    def _next_suspect(self) -> Any:
        known = self.active_requests | self.waiting_requests
        self.suspects = {id: strikes for id, strikes in self.suspects.items() if id in known}
        self.cleared &= self.suspects.keys()
        return next((known[id] for id in self.suspects if id not in self.cleared), None)


class Faults:
    """The body of the generation loop, with each error kept to the requests that it concerns.

    The requests of a step that fails run again, each alone: the one that fails alone ends with the
    error, the others have lost some time. A request is cleared once all its tokens ran alone.

    Args:
        manager: of transformers' continuous batching.
        trial: runs the model on anything; raises if it is the model that cannot be run any more.

    Attributes:
        torn: set while what a step gave is being taken in: if that fails, no
            request of the step is known to be read exactly, and all of them end.
    """

    def __init__(self, manager: Any, trial: Callable[[], None]) -> None:
        self.manager, self.trial, self.torn = manager, trial, False
        self._body = manager._generation_loop_body
        manager._generation_loop_body = self.body

    def body(self, processor: Any, bootstrapping: bool) -> bool:
        """One step; whether more may come."""
        steps = self.manager.current_batch
        self.torn, processor.inputs_and_outputs.requests_in_batch = False, []
        try:
            more = self._body(processor, bootstrapping)
        except Exception as error:  # whatever it is, it must not end the others
            LOG.exception("a step failed")
            self._recover(
                processor, error, taken_in=self.torn or self.manager.current_batch > steps
            )
            return True
        self._clear(processor)
        return more

    def _clear(self, processor: Any) -> None:
        scheduler = processor.scheduler
        if not scheduler.suspects:
            return
        step = processor.inputs_and_outputs.requests_in_batch
        scheduler.cleared |= {f.state.request_id for f in step if f.has_new_token}

    def _recover(self, processor: Any, error: Exception, taken_in: bool) -> None:
        """Ends the requests at fault, and puts the others of the step back.

        Raises:
            Exception: the error itself, where no request is left or the model runs no more.
        """
        scheduler = processor.scheduler
        step = [future.state for future in processor.inputs_and_outputs.requests_in_batch]
        if not step:  # none could be scheduled: the latest request makes room
            waiting = list(scheduler.active_requests.values()) or list(
                scheduler.waiting_requests.values()
            )
            if not waiting:
                raise error
            self._end(processor, waiting[-1], error)
        elif taken_in or len(step) == 1:
            for state in step:
                self._end(processor, state, error)
        else:
            self._suspect(processor, step, error)
            return
        self.trial()

    def _suspect(self, processor: Any, step: list[Any], error: Exception) -> None:
        scheduler = processor.scheduler
        for state in step:
            strikes = scheduler.suspects.get(state.request_id, 0) + 1
            scheduler.suspects[state.request_id] = strikes
            scheduler.cleared.discard(state.request_id)
            if strikes > MOST_STRIKES:
                self._end(processor, state, error)
            else:
                scheduler.put_back(state)

    def _end(self, processor: Any, state: Any, error: Exception) -> None:
        scheduler, name = processor.scheduler, state.request_id
        processor._handle_request_error(error, state)
        scheduler.finish_request(name)
        scheduler.block_new_requests = False
        if scheduler.waiting_requests.pop(name, None) is not None:
            scheduler.waiting_requests_order.remove(name)
