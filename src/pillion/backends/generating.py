"""What `generate` runs that is no part of its answers: rows that have ended, and other texts.

A row that is over is fed its end token and padding for as long as others go on, guidance runs the
model on a second text, and speculation runs tokens that it drops. Only the code that generates can
tell: a pass looks the same. Knows no probe.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pillion.backends.base import Step
from pillion.backends.shared_use import FollowedMethods
from pillion.errors import StateError

NEVER = 2**62
"""Where a row ends that goes on."""


@dataclass
class RunningAnswers:
    """The answers that one call of `generate` is making.

    Attributes:
        assistant: the model that drafts them; None for none.
        guided: whether a second text runs beside them.
        cache: that holds their tokens, once it is known.
        begins: positions that were in the cache before its first pass; None before that.
        num_rows: of the last pass.
        ran: positions that have run, padding included.
        ends: of each row, the position from which on nothing is of its answer.
    """

    assistant: Any = None
    guided: bool = False
    cache: object | None = None
    begins: int | None = None
    num_rows: int = 0
    ran: int = 0
    ends: Int[Tensor, " row"] | None = None

    def check(self, config: Any) -> None:
        """Returns if what will run can be told from what is only tried.

        Raises:
            StateError: it cannot.
        """
        if config.get_generation_mode(self.assistant) == "assisted_generation":
            raise StateError(
                "This `generate` drafts tokens and drops some once they have run (assistant_model, "
                "prompt_lookup_num_tokens, ...), and what probes have read is not taken back; "
                "generate without drafts while probes are attached."
            )
        self.guided = config.guidance_scale not in (None, 1)
        if self.guided and not config.use_cache:
            raise StateError(
                "This `generate` runs a second text for its guidance (guidance_scale), which "
                "without a KV cache cannot be told from the answer's; generate with use_cache=True."
            )

    def note(self, done: Bool[Tensor, " row"]) -> None:
        """Some rows are over: their last token is drawn, and is not to run."""
        if len(done) != self.num_rows:
            return  # of beams that are weighed, more than those that run
        if self.ends is None:
            self.ends = torch.full((len(done),), NEVER, device=done.device)
        self.ends = torch.where(done, self.ends.clamp(max=self.ran), self.ends)

    def follow(self, step: Step) -> Step:
        """A pass, without the tokens of rows that are over."""
        self.cache = step.cache if self.cache is None else self.cache
        self.begins = step.past_tokens if self.begins is None else self.begins
        self.num_rows, self.ran = len(step.mask), step.past_tokens + step.mask.shape[1]
        step = replace(step, new_prompt=step.past_tokens == self.begins)
        if self.ends is None or len(self.ends) != self.num_rows:
            return step
        places = torch.arange(step.past_tokens, self.ran, device=step.mask.device)
        return replace(step, mask=step.mask & (places < self.ends.to(places.device)[:, None]))


class Generating(FollowedMethods):
    """Follows a model's own `generate` for as long as the model has a watcher."""

    # With which a model generates, and makes what says which rows are over (transformers 5.23).
    METHODS: ClassVar[Mapping[str, str]] = {
        "generate": "_generate",
        "_get_stopping_criteria": "_criteria",
    }

    def __init__(self, owner: Any = None) -> None:
        super().__init__(owner)
        self._running: dict[int, RunningAnswers] = {}  # by thread

    def beside(self, cache: object | None) -> bool:
        """Whether a pass with this cache, which begins in this thread, is of another text."""
        now = self._running.get(threading.get_ident())
        return now is not None and now.guided and now.cache is not None and cache is not now.cache

    def follow(self, step: Step) -> Step:
        """A pass that begins in this thread, without the tokens of rows that are over."""
        now = self._running.get(threading.get_ident())
        return step if now is None else now.follow(step)

    def goes_on(self, cache: object | None) -> None:
        """A pass of this thread is over, and the answer's next one goes on from this cache."""
        now = self._running.get(threading.get_ident())
        if now is not None and cache is not None:
            now.cache = cache

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        thread, owner = threading.get_ident(), self._owner()
        given = inspect.signature(type(owner).generate).bind_partial(owner, *args, **kwargs)
        assistant = {**given.arguments, **kwargs}.get("assistant_model")
        before = self._running.get(thread)
        self._running[thread] = RunningAnswers(assistant)
        try:
            return self._call("generate", *args, **kwargs)
        finally:
            if before is None:
                del self._running[thread]
            else:
                self._running[thread] = before

    def _criteria(self, generation_config: Any, *args: Any, **kwargs: Any) -> Any:
        criteria = self._call("_get_stopping_criteria", generation_config, *args, **kwargs)
        now = self._running.get(threading.get_ident())
        if now is None:
            return criteria
        now.check(generation_config)
        return _noting(criteria, now.note)


def _noting(criteria: Any, note: Callable[[Tensor], None]) -> Any:
    """The same criteria, which tell what they decide."""
    from transformers import StoppingCriteriaList

    class Noting(StoppingCriteriaList):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            done = super().__call__(*args, **kwargs)
            note(done)
            return done

    return Noting(criteria)
