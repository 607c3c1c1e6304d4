"""A language model with probes riding along: score texts, or generate with verdicts.

Joins a backend and probes: one pass gives the prompt's verdicts, the first token and everything
after it. Knows no engine's insides and no HTTP.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from pillion.backends import Backend, load_backend
from pillion.core import (
    Event,
    OnTooLong,
    Scope,
    Template,
    Text,
    TextLike,
    Tokens,
    Verdict,
    as_text,
    as_tokens,
    defaults,
)
from pillion.core.batching import batches_by_length
from pillion.errors import ConfigError, DataError
from pillion.probe import Artefact
from pillion.probe.group import group
from pillion.runtime.attach import ProbeLike, checked, resolve, several, watch
from pillion.runtime.canaries import Checked, check_canaries
from pillion.runtime.decoding import answer_events
from pillion.runtime.encoding import encode_row, encode_rows, shared_template, usual_template
from pillion.runtime.exits import ExitReading, may_leave
from pillion.runtime.generation import Generation, Stream
from pillion.runtime.padding import pad_batch
from pillion.runtime.reading import Reading
from pillion.runtime.sampling import LogprobSampler, Sampling

SCORING_TOKENS = 4096
"""Padded tokens of a scoring batch: large enough to keep a processor busy, small in memory."""


class LanguageModel:
    """A causal language model whose passes can be read by probes.

    Args:
        backend: the engine; `LanguageModel.load` makes one by name.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @classmethod
    def load(
        cls,
        model: str = defaults.MODEL,
        dtype: str = defaults.DTYPE,
        device: str = defaults.DEVICE,
    ) -> LanguageModel:
        """A model by name, folder or hub name; the embedded one by default.

        Args:
            model: `embedded`, `fake`, a folder, a GGUF file or a hub name.
            dtype: of the weights; `auto` is the one that they are stored in.
            device: `cpu`, `cuda`, ...; `auto` takes a GPU where there is one.

        Raises:
            ConfigError: if it cannot be loaded, saying why and what to do.
        """
        return cls(load_backend(model, dtype, device))

    def score(
        self,
        texts: Sequence[TextLike],
        probes: Sequence[ProbeLike] | ProbeLike,
        template: Template | None = None,
        on_too_long: OnTooLong = "error",
        progress: Callable[[int, int], None] | None = None,
        allow_mismatch: bool = False,
    ) -> list[dict[str, Verdict]]:
        """Verdicts of every probe for every text, in input order, in one pass a text.

        Where every probe's card says at which depths texts may leave, each is read as deep as it
        has to be; `artefact.whole` reads every text to its last layer.

        Args:
            texts: texts or conversations, one or more.
            probes: artefacts or folders, one or several; each reads the turns of its scope.
            template: how texts are wrapped; None: as the probes were trained, all in one way.
            on_too_long: what happens to a text beyond the context window.
            progress: called with the tokens done so far, and all of them.
            allow_mismatch: only warn of probes trained on other weights or another template.

        Raises:
            ConfigError: if no probe is given, probes were trained on texts wrapped in different
                ways, or texts may leave early and cannot in this model.
            DataError: for a text that is empty, too long, or without a turn of a probe's scope.
            MismatchError: if a probe belongs to another model.
            StateError: if a hidden state is not finite.
        """
        artefacts = [resolve(p) for p in several(probes)]
        if not artefacts:
            raise ConfigError("Got no probe to score with; give one or more.")
        how = template or shared_template(artefacts)
        scopes: list[Scope] = [artefact.card.scope for artefact in artefacts]
        rows = encode_rows(self.backend, texts, how, on_too_long, scopes=scopes)
        return self.score_rows(rows, artefacts, progress, allow_mismatch)

    def score_rows(
        self,
        rows: Sequence[Sequence[int]],
        probes: Sequence[ProbeLike] | ProbeLike,
        progress: Callable[[int, int], None] | None = None,
        allow_mismatch: bool = False,
    ) -> list[dict[str, Verdict]]:
        """Verdicts of every probe for every row of tokens; see `score`.

        A row without words of a probe's scope gets no verdict of that probe.

        Args:
            rows: `Tokens`, or plain token ids where probes read all of them; one or more each.
            probes: artefacts or folders, one or several.
            progress: called with the tokens done so far, and all of them.
            allow_mismatch: only warn of probes trained on other weights or another template.
        """
        artefacts = [resolve(probe) for probe in several(probes)]
        if may_leave(artefacts):
            return self._score_leaving(rows, artefacts, progress, allow_mismatch)
        out: list[dict[str, Verdict]] = [{} for _ in rows]
        with watch(self.backend, artefacts, allow_mismatch) as reading:
            for batch, some in _batches(rows, progress):
                reading.expect(some)
                self.backend.forward(*pad_batch(some))
                for row, verdicts in zip(batch, reading.verdicts(), strict=True):
                    out[row] = verdicts
        return out

    def _score_leaving(
        self,
        rows: Sequence[Sequence[int]],
        artefacts: Sequence[Artefact],
        progress: Callable[[int, int], None] | None,
        allow_mismatch: bool,
    ) -> list[dict[str, Verdict]]:
        """As `score_rows`, of rows that leave the pass where their probes have decided."""
        backend = self.backend
        for artefact in artefacts:
            checked(backend, artefact, allow_mismatch)
        backend.check_early_exit()
        groups = group(artefacts, backend.device, backend.dtype)
        out: list[dict[str, Verdict]] = [{} for _ in rows]
        for batch, some in _batches(rows, progress):
            reading = ExitReading(groups, some, backend.reasoning_ids)
            backend.run_early_exit(reading, reading.layers, *pad_batch(some))
            for row, verdicts in zip(batch, reading.verdicts(), strict=True):
                out[row] = verdicts
        return out

    def check(self, probe: ProbeLike) -> Checked:
        """Runs the canaries on a probe's card: whether it says here what it said at training.

        Raises:
            MismatchError: it does not, saying by how much; or it belongs to another model.
        """
        (found,) = check_canaries(self, [resolve(probe)])
        return found

    def generate(
        self,
        prompt: TextLike,
        probes: Sequence[ProbeLike] | ProbeLike = (),
        max_tokens: int = defaults.ANSWER_TOKENS,
        sampling: Sampling | None = None,
        template: Template | None = None,
    ) -> Generation:
        """The model's answer to a prompt, with verdicts of both; see `stream`."""
        stream = self.stream(prompt, probes, max_tokens, sampling, template)
        for _ in stream:
            pass
        assert stream.result is not None
        return stream.result

    def stream(
        self,
        prompt: TextLike,
        probes: Sequence[ProbeLike] | ProbeLike = (),
        max_tokens: int = defaults.ANSWER_TOKENS,
        sampling: Sampling | None = None,
        template: Template | None = None,
        allow_mismatch: bool = False,
    ) -> Stream:
        """Answers token by token; when this returns, the prompt's verdicts are known.

        Args:
            prompt: what the user says, or a conversation that ends before the answer.
            probes: artefacts or folders, one or several, all read in the same passes.
            max_tokens: limit of the answer.
            sampling: how tokens are drawn; None takes the likeliest.
            template: `chat` wraps the prompt as a user's turn, `raw` leaves it; None: `chat`, or
                `raw` where the model has no chat template, with a warning.
            allow_mismatch: only warn of probes trained on other weights or another template.

        Raises:
            ConfigError: if `max_tokens` is not at least 1.
            DataError: for an empty prompt, one too long to leave room for the answer, or a
                conversation that ends with an answer.
            MismatchError: if a probe belongs to another model.
        """
        if max_tokens < 1:
            raise ConfigError(f"max_tokens is {max_tokens}; it must be 1 or more.")
        told, artefacts = as_text(prompt), [resolve(p) for p in several(probes)]
        if not isinstance(told, str) and told[-1].role == "assistant":
            raise DataError(
                "The conversation ends with an answer; end it with the turn that is to be answered."
            )
        how = template or self._usual(told)
        ids = encode_row(self.backend, told, how, "error", max_tokens, ())
        draw = LogprobSampler(sampling or Sampling(), self.backend.device, prompt=ids)
        attached = watch(self.backend, artefacts, allow_mismatch) if artefacts else nullcontext()
        scopes: dict[str, Scope] = {a.name: a.card.scope for a in artefacts}
        return Stream(self._events(ids, attached, max_tokens, draw), self.backend, ids, scopes)

    def _usual(self, prompt: Text) -> Template:
        """How a prompt is wrapped by default; turns have the chat template alone."""
        if not isinstance(prompt, str):
            return "chat"
        return usual_template(self.backend.identity, None, warnings.warn)

    def _events(
        self,
        prompt: Tokens,
        attached: AbstractContextManager[Reading | None],
        max_tokens: int,
        draw: LogprobSampler,
    ) -> Generator[Event]:
        with attached as reading:
            yield from answer_events(self.backend, prompt, max_tokens, draw, reading)


def score_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Which rows are scored together, by their places; longest first.

    The rows of any of these batches, by themselves or with those of the batches next to it, are cut
    into the same batches again: where a batch is scored does not change its verdicts.
    """
    return batches_by_length(lengths, SCORING_TOKENS)


def _batches(
    rows: Sequence[Sequence[int]], progress: Callable[[int, int], None] | None
) -> Iterator[tuple[list[int], list[Tokens]]]:
    """Batches of rows, each with the places of its rows; progress is told when one is done."""
    total, done = sum(map(len, rows)), 0
    for batch in score_batches([len(row) for row in rows]):
        some = [as_tokens(rows[place]) for place in batch]
        yield batch, some
        done += sum(map(len, some))
        if progress:
            progress(done, total)
