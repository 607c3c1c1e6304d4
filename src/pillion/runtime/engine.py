"""The contract of a serving engine: many requests at once, tokens and verdicts as they come.

A server or a batch job speaks to an `Engine` and does not know which one runs.
Policies, stop strings and HTTP are not its business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field

from pillion.backends import Coder
from pillion.core import Event, ModelIdentity, Tokens, Verdict
from pillion.errors import ConfigError, DataError, RunError, unknown_name
from pillion.probe import Artefact
from pillion.runtime.explanation import Explanation
from pillion.runtime.sampling import Sampling


@dataclass(frozen=True)
class Request:
    """One answer to generate.

    Attributes:
        id: unique among the requests in flight.
        token_ids: the prompt.
        max_tokens: limit of the answer, 1 or more.
        sampling: how tokens are drawn.
        top_logprobs: how many likeliest tokens to report beside each token; None: no logprobs.
        salt: cached prefixes are shared among requests of the same salt only.
        grammar: that the answer must follow, as `backends.grammar` reads it; empty for none.
    """

    id: str
    token_ids: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    top_logprobs: int | None = None
    salt: str = ""
    grammar: str = ""


@dataclass(frozen=True)
class EngineStats:
    """Counters since the start, and what is going on now.

    Attributes:
        waiting: requests that have not begun.
        running: requests in flight.
        prompt_tokens: prompt tokens taken in, those from the prefix cache included.
        cached_tokens: prompt tokens served from the prefix cache.
        generated_tokens: tokens sampled.
        preemptions: requests that were put back and begun again.
        probe_seconds: time spent in taps, folds and read-outs.
    """

    waiting: int = 0
    running: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    probe_seconds: float = 0.0


class Engine(ABC):
    """A language model that serves many requests at once, with probes riding along.

    Law: every verdict equals that of `LanguageModel.score` on the same tokens (up to rounding),
    whatever else is in flight, in whatever chunks, from the prefix cache or not, preempted or not.
    Closing the generator of `submit` cancels the request and frees its slots at once.

    Attributes:
        identity: of the model.
        codec: texts and conversations to tokens and back; any thread may call it.
        end_ids: tokens that end an answer.
        vocab_size: token ids are below this.
    """

    identity: ModelIdentity
    codec: Coder
    end_ids: frozenset[int]
    vocab_size: int

    @property
    @abstractmethod
    def probes(self) -> Mapping[str, Artefact]:
        """The probes that ride now, by name."""

    @property
    def dtype(self) -> str:
        """That it computes in; that of the weights where an engine does not say."""
        return self.identity.dtype

    @property
    def window_tokens(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.identity.context_tokens

    @property
    def repeats_draws(self) -> bool:
        """Whether a seed draws the same answer again."""
        return True

    @abstractmethod
    async def start(self) -> None:
        """Gets ready; returns when requests are taken."""

    @property
    def failure(self) -> str | None:
        """Why no request can be taken any more; None while all is well."""
        return None

    async def rebuild(self) -> None:
        """Makes an engine that has failed take requests again; what was in flight is lost.

        Raises:
            RunError: it cannot; the process has to be started again.
        """
        raise RunError(f"{type(self).__name__} cannot be rebuilt; start the server again.")

    @abstractmethod
    def submit(self, request: Request) -> AsyncGenerator[Event]:
        """The events of one request, in order: PromptRead, TokenEvent ..., Finished.

        Raises:
            DataError: a prompt that is empty or leaves no room for the answer.
            RunError: the engine failed or is shutting down.
        """

    def check_grammar(self, grammar: str) -> None:
        """Returns if answers can follow a grammar; may take a while the first time.

        Raises:
            ConfigError: they cannot.
        """
        raise ConfigError(
            f"{type(self).__name__} follows no grammars; leave the wanted form out, or serve the "
            "model by transformers."
        )

    @property
    def longest_row(self) -> int:
        """Tokens that a text to classify may have."""
        return self.identity.context_tokens

    async def classify(
        self,
        rows: Sequence[Sequence[int]],
        probes: Sequence[str] | None = None,
        owner: str = "",
        whole: bool = False,
    ) -> list[dict[str, Verdict]]:
        """Verdicts of token rows without generating; no block above the highest layer read is run.

        Where every probe's card says at which depths texts may leave, each row is read as deep as
        it has to be, if the engine can.

        Args:
            rows: token ids of one or more texts.
            probes: names of those to read; None for all.
            owner: of the call; owners take turns where their calls wait for each other.
            whole: read every row to the last layer all the same.

        Raises:
            ConfigError: an unknown probe, listing the known ones.
            DataError: a text that is empty, too long, or of tokens that the model has not.
        """
        artefacts = chosen(self.probes, probes)
        check_rows(rows, self.longest_row, self.vocab_size)
        if not artefacts or not rows:
            return [{} for _ in rows]
        return await self._classify(
            rows, [a.whole for a in artefacts] if whole else artefacts, owner
        )

    @abstractmethod
    async def _classify(
        self, rows: Sequence[Sequence[int]], artefacts: Sequence[Artefact], owner: str
    ) -> list[dict[str, Verdict]]:
        """`classify` of rows that fit, by the probes themselves; one or more of either."""

    async def explain(self, row: Tokens, probe: str) -> Explanation:
        """What each token and layer of a row added to a probe's logits.

        Args:
            row: a text's or conversation's tokens, with words of the probe's scope.
            probe: its name.

        Raises:
            ConfigError: an engine whose hidden states cannot be had.
            DataError: an empty or too long row, or one without a word of the scope.
        """
        raise ConfigError(
            f"{type(self).__name__} explains no verdicts; a server that runs transformers does, "
            "and so does `pillion explain`."
        )

    @abstractmethod
    async def set_probes(self, probes: Sequence[Artefact]) -> None:
        """Replaces the riding probes between two steps; prefixes cached for others are dropped.

        Requests in flight keep the probes that they began with, or begin again.

        Raises:
            MismatchError: a probe of another model; nothing is changed then.
        """

    @abstractmethod
    def stats(self) -> EngineStats:
        """What has been done and what is going on."""

    @abstractmethod
    async def close(self) -> None:
        """Stops; what is in flight ends with a RunError."""


def check_room(request: Request, window: int, vocab_size: int) -> None:
    """Raises a DataError for a request that cannot be run.

    Its prompt is empty, leaves no room for the answer, or holds a token that the model has not.
    """
    if not request.token_ids:
        raise DataError("The prompt is empty; give it some words.")
    if request.max_tokens < 1:
        raise DataError(f"max_tokens is {request.max_tokens}; ask for 1 or more.")
    if len(request.token_ids) + request.max_tokens > window:
        raise DataError(
            f"The prompt has {len(request.token_ids):,} tokens and the answer may have "
            f"{request.max_tokens:,}, but this model takes {window:,} in all; shorten the prompt "
            "or ask for less."
        )
    check_ids(request.token_ids, vocab_size)
    check_ids([token for token, _ in request.sampling.logit_bias], vocab_size)


def check_ids(token_ids: Sequence[int], vocab_size: int) -> None:
    """Raises a DataError for a token that the model has not; an engine would die of it."""
    least, most = min(token_ids, default=0), max(token_ids, default=0)
    if least < 0 or most >= vocab_size:
        raise DataError(
            f"The token id {least if least < 0 else most} is none of this model's, which are 0 to "
            f"{vocab_size - 1:,}; send others, or text."
        )


def check_rows(rows: Sequence[Sequence[int]], window: int, vocab_size: int) -> None:
    """Raises a DataError for a text that is empty, too long, or of tokens that the model has not.

    See `check_ids`.
    """
    for row in rows:
        if not 0 < len(row) <= window:
            raise DataError(
                f"A text has {len(row):,} tokens, this model takes 1 to {window:,}; give texts of "
                "that length."
            )
        check_ids(row, vocab_size)


def chosen(known: Mapping[str, Artefact], names: Sequence[str] | None) -> list[Artefact]:
    """The probes of those names, or all.

    Raises:
        ConfigError: for an unknown name, listing the known ones.
    """
    for name in names or ():
        if name not in known:
            raise unknown_name("probe", name, known)
    return [known[name] for name in (known if names is None else names)]
