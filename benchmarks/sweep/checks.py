"""One architecture, read by every way: how far its verdicts are from those of each text alone."""

from __future__ import annotations

import asyncio
import io
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor

from benchmarks.sweep.probe import Letters, by_definition, probabilities, random_probe, states_alone
from benchmarks.sweep.shapes import VOCAB
from pillion.backends.transformers import TransformersBackend
from pillion.errors import PillionError
from pillion.probe import Artefact
from pillion.runtime import (
    ContinuousEngine,
    LanguageModel,
    PagedSettings,
    Request,
    TokenEvent,
    attach,
    watch,
)

EXACT = 1e-4
"""Two probabilities that differ by no more are the same but for rounding, in fp32."""
SETTINGS = PagedSettings(page_tokens=4, cache_tokens=512, max_chunk_tokens=16)
SECONDS = 60


class Subject:
    """A tiny model, a probe of it, and texts with what the probe says of each by definition."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.backend = TransformersBackend(model, Letters())
        self.probe = random_probe(self.backend.identity)
        noise = torch.Generator().manual_seed(0)
        first, *others = (
            torch.randint(3, VOCAB, (n,), generator=noise).tolist() for n in (24, 9, 5)
        )
        self.rows: list[list[int]] = [first, first[:12] + others[0], others[1]]
        self.states = [states_alone(self.backend, row) for row in self.rows]
        self.wanted = [by_definition(self.probe, states) for states in self.states]

    def error(self, found: Sequence[Any]) -> float:
        """The worst difference of the verdicts of all rows."""
        return max(
            (probabilities(one["p"]) - want).abs().max().item()
            for one, want in zip(found, self.wanted, strict=True)
        )


def states(subject: Subject) -> float:
    """Each layer against transformers' `hidden_states`; the last one is after the norm there.

    Some architectures leave the embeddings out and begin with what the first block gives.
    """
    ids = torch.tensor([subject.rows[0]])
    with torch.no_grad():
        said = subject.model(ids, output_hidden_states=True, use_cache=False).hidden_states
    own = subject.states[0][len(subject.states[0]) - len(said) :]
    return min(_apart(own[:-1], said[:-1]), _apart(own[1:-1], said[:-2]))


def _apart(own: Sequence[Tensor], said: Sequence[Tensor]) -> float:
    return max(_distance(one, two[0]) for one, two in zip(own, said, strict=True))


def left(subject: Subject) -> float:
    """Texts as one batch, padded on the left."""
    return subject.error(LanguageModel(subject.backend).score_rows(subject.rows, [subject.probe]))


def right(subject: Subject) -> float:
    """Texts as one batch, padded on the right."""
    longest = max(map(len, subject.rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in subject.rows])
    mask = torch.tensor([[i < len(row) for i in range(longest)] for row in subject.rows])
    with watch(subject.backend, [subject.probe]) as reading:
        subject.backend.forward(ids, mask)
        return subject.error(reading.verdicts())


def steps(subject: Subject) -> float:
    """A prompt of 5 tokens, then token by token."""
    return _pieces(subject, [5, *[1] * 19])


def chunks(subject: Subject) -> float:
    """In chunks of 5, 8 and 11 tokens."""
    return _pieces(subject, [5, 8, 11])


def _pieces(subject: Subject, lengths: Sequence[int]) -> float:
    backend, row = subject.backend, torch.tensor([subject.rows[0]])
    cache, done = backend.new_cache(), 0
    with watch(backend, [subject.probe]) as reading:
        for length in lengths:
            ids = row[:, done : done + length]
            done += length
            backend.forward(ids, torch.ones(1, done, dtype=torch.bool), cache, logits=True)
        (found,) = reading.verdicts()
    return (probabilities(found["p"]) - subject.wanted[0]).abs().max().item()


def generate(subject: Subject) -> float:
    """`model.generate` of a padded batch, with the probe attached."""
    with attach(subject.model, subject.probe) as reading:
        answers = _generate(subject)
        found = reading.verdicts()
    wanted = [
        by_definition(subject.probe, states_alone(subject.backend, row + answer[:-1]))
        for row, answer in zip(subject.rows[1:], answers, strict=True)
    ]
    return max(
        (probabilities(one["p"]) - want).abs().max().item()
        for one, want in zip(found, wanted, strict=True)
    )


def _generate(subject: Subject) -> list[list[int]]:
    """Answers of six tokens to two rows, one of them padded."""
    rows = subject.rows[1:]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    out = subject.model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=6,
        min_new_tokens=6,
        do_sample=False,
        pad_token_id=0,
    )
    return out[:, longest:].tolist()


def early_exit(subject: Subject) -> float:
    """A probe of the lower layers, whose pass ends there."""
    probe = random_probe(subject.backend.identity, (0, 1))
    found = LanguageModel(subject.backend).score_rows(subject.rows[:1], [probe])
    want = by_definition(probe, subject.states[0])
    return (probabilities(found[0]["p"]) - want).abs().max().item()


def engine(subject: Subject) -> float:
    """Continuous batching: prompts together, answers, and both again with prefixes shared."""

    async def use(served: ContinuousEngine) -> float:
        first = await asyncio.gather(*(_ask(served, row) for row in subject.rows))
        again = [await _ask(served, row) for row in subject.rows]
        return max(
            _served_error(subject, row, events)
            for row, events in zip([*subject.rows, *subject.rows], [*first, *again], strict=True)
        )

    return _serve(subject, use)


def classify(subject: Subject) -> float:
    """Passes between the steps of continuous batching."""

    async def use(served: ContinuousEngine) -> float:
        return subject.error(await served.classify(subject.rows))

    return _serve(subject, use)


def _serve(subject: Subject, use: Callable[[ContinuousEngine], Any]) -> float:
    async def run() -> float:
        served = ContinuousEngine(subject.backend, [subject.probe], SETTINGS)
        await served.start()
        try:
            return await asyncio.wait_for(use(served), SECONDS)
        finally:
            await served.close()

    return asyncio.run(run())


async def _ask(served: ContinuousEngine, row: list[int]) -> list[Any]:
    return [event async for event in served.submit(Request("r", tuple(row), 6))]


def _served_error(subject: Subject, row: list[int], events: Sequence[Any]) -> float:
    prompt, *middle, last = events
    tokens = [event.token_id for event in middle if isinstance(event, TokenEvent)]
    states = states_alone(subject.backend, row + tokens)
    read = len(row) + len(tokens) - (last.reason == "length")
    pairs = [(prompt, states[:, : len(row)]), (last, states[:, len(row) : read])]
    return max(_error(subject.probe, event.verdicts, part) for event, part in pairs)


def _error(probe: Artefact, verdicts: Any, states: Tensor) -> float:
    if not states.shape[1]:
        return 0.0
    return (probabilities(verdicts["p"]) - by_definition(probe, states)).abs().max().item()


def own_padding(subject: Subject) -> float:
    """The model without pillion: logits of a padded text against those of the text alone."""
    rows = subject.rows
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        together = _run(subject, input_ids=ids, attention_mask=mask, position_ids=positions)
        alone = [_run(subject, input_ids=torch.tensor([row]))[0, -1] for row in rows]
    return max(_distance(one[-1], two) for one, two in zip(together, alone, strict=True))


def own_chunks(subject: Subject) -> float:
    """The model without pillion: logits after chunks and tokens against those of one pass."""
    row, worst = torch.tensor([subject.rows[0]]), 0.0
    for lengths in ([5, 8, 11], [5, *[1] * 19]):
        cache, done, logits = subject.backend.new_cache(), 0, None
        with torch.no_grad():
            whole = _run(subject, input_ids=row)[0, -1]
            for length in lengths:
                ids = row[:, done : done + length]
                done += length
                keywords = {subject.backend.cache_word: cache, "use_cache": True}
                logits = _run(subject, input_ids=ids, **keywords)[0, -1]
        assert logits is not None
        worst = max(worst, _distance(logits, whole))
    return worst


def own_generate(subject: Subject) -> float:
    """The model without pillion: whether `generate` of a padded batch runs at all."""
    _generate(subject)
    return 0.0


def _run(subject: Subject, **keywords: Any) -> Tensor:
    if "position_ids" in keywords and not _takes_positions(subject.model):
        del keywords["position_ids"]
    return subject.model(**keywords).logits


def _takes_positions(model: Any) -> bool:
    import inspect

    return "position_ids" in inspect.signature(model.forward).parameters


def _distance(one: Tensor, two: Tensor) -> float:
    return ((one - two).norm() / two.norm()).item()


CHECKS: dict[str, Callable[[Subject], float]] = {
    check.__name__: check
    for check in (
        states,
        left,
        right,
        steps,
        chunks,
        generate,
        early_exit,
        engine,
        classify,
        own_padding,
        own_chunks,
        own_generate,
    )
}


def outcome(check: Callable[[], float]) -> dict[str, Any]:
    """What a check gives: an `error`, the sentence that it is `refused` with, or a `crash`."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return {"error": check()}
    except PillionError as error:
        return {"refused": str(error)}
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{last.filename.rsplit('/', 1)[-1]}:{last.lineno}"
        return {"crash": f"{type(error).__name__}: {error} ({place})"}


def check_all(model: Any) -> dict[str, dict[str, Any]]:
    """Every check of a model; only `attach` where it is refused there, or its pass fails."""
    try:
        with torch.no_grad():
            model(torch.tensor([[5, 6, 7]]), use_cache=False)
    except Exception as error:
        return {"model": {"crash": f"{type(error).__name__}: {error}"}}
    made: list[Subject] = []
    begun = outcome(lambda: made.append(Subject(model)) or 0.0)
    if not made:
        return {"attach": begun}
    return {name: outcome(lambda c=check: c(made[0])) for name, check in CHECKS.items()}
