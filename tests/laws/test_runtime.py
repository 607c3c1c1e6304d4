"""The laws of reading while the model runs: every way to run the same tokens, the same verdict.

The reference is `Network.forward` on the full states of each sequence run by itself. Everything is
in fp32; a binary and a multi-class probe of every registered aggregator are read together.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from pillion.backends import Backend
from pillion.backends.fake import FakeBackend
from pillion.backends.transformers import TransformersBackend
from pillion.core import Verdict
from pillion.errors import StateError
from pillion.probe import AGGREGATORS, Artefact
from pillion.runtime import (
    LanguageModel,
    Reading,
    Sampler,
    Sampling,
    attach,
    decode_steps,
    pad_batch,
    watch,
)
from pillion.runtime.reading import FOLDED_TOKENS, HELD_TOKENS
from tiny_models import (
    DEVICE,
    all_artefacts,
    distance,
    full_states,
    make_artefact,
    offline,
    probs_of,
    random_ids,
    tiny_backend,
    tiny_model,
)

pytestmark = pytest.mark.usefixtures("one_thread")

LIMIT = 1e-5
"""Relative error that counts as equal, in fp32."""

LENGTHS = (23, 9, 17)
CHUNKS = [2, 5, HELD_TOKENS, HELD_TOKENS + 1, 40]
"""Tokens a chunk: held until the last layer, exactly as many, folded layer by layer."""

each_name = pytest.mark.parametrize("name", AGGREGATORS)


@pytest.fixture(scope="module")
def backend() -> TransformersBackend:
    return tiny_backend()


@pytest.fixture
def probes(name: str, backend: Backend) -> list[Artefact]:
    """A binary and a multi-class probe of that aggregator."""
    return [a for a in all_artefacts(backend.identity) if a.card.probe == name]


@pytest.fixture
def every(backend: Backend) -> list[Artefact]:
    """All of them at once."""
    return all_artefacts(backend.identity)


ROWS = [random_ids(length, seed) for seed, length in enumerate(LENGTHS)]


def wanted(
    backend: Backend, artefacts: Sequence[Artefact], rows: Sequence[Sequence[int]]
) -> dict[str, Tensor]:
    """The reference: probe name -> [row, output]."""
    states = [full_states(backend, row) for row in rows]
    return {a.name: torch.stack([offline(a, s) for s in states]) for a in artefacts}


def assert_equal(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    far = {n: d for n in got if not (d := distance(got[n], expected[n])) <= LIMIT}
    assert not far


def pad_right(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    ids, mask = (part.flip(1) for part in pad_batch([row[::-1] for row in rows]))
    return ids, mask


def run(
    backend: Backend,
    row: Sequence[int],
    chunk: int,
    cache: object,
    done: int = 0,
) -> None:
    """A sequence in chunks through a cache that holds its first `done` tokens."""
    for begin in range(done, len(row), chunk):
        ids = torch.tensor([row[begin : begin + chunk]])
        mask = torch.ones(1, begin + ids.shape[1], dtype=torch.bool)
        backend.forward(ids, mask, cache)


# --- the reference itself


def test_probabilities_here_are_neither_0_nor_1(
    backend: TransformersBackend, every: list[Artefact]
) -> None:
    """Or a wrong logit would not show."""
    for name, probs in wanted(backend, every, ROWS).items():
        assert probs.min() > 0.001, name
        assert probs.max() < 1 - 0.001, name


@each_name
def test_reading_one_chunk_only_is_clearly_another_result(
    name: str, backend: TransformersBackend, probes: list[Artefact]
) -> None:
    """The negative control of everything below."""
    part: list[dict[str, Tensor]] = []
    with watch(backend, probes) as reading:
        for row in ROWS:
            cache, half = backend.new_cache(), len(row) // 2
            run(backend, row[:half], half, cache)
            reading.cut()
            run(backend, row, half + 1, cache, done=half)
            part.append(reading.probabilities())

    for probe, probs in wanted(backend, probes, ROWS).items():
        assert distance(torch.cat([read[probe] for read in part]), probs) > 0.01


# --- batches


@each_name
@pytest.mark.parametrize("pad", [pad_batch, pad_right], ids=["left", "right"])
def test_a_padded_batch_equals_single_sequences(
    name: str, pad: Any, backend: TransformersBackend, probes: list[Artefact]
) -> None:
    with watch(backend, probes) as reading:
        backend.forward(*pad(ROWS))

    assert_equal(reading.probabilities(), wanted(backend, probes, ROWS))


@each_name
@pytest.mark.parametrize("pad", [pad_batch, pad_right], ids=["left", "right"])
def test_a_small_padded_batch_equals_single_sequences(
    name: str, pad: Any, backend: TransformersBackend, probes: list[Artefact]
) -> None:
    rows = [ROWS[0][:4], ROWS[1][:1], ROWS[2][:3]]
    with watch(backend, probes) as reading:
        backend.forward(*pad(rows))

    assert_equal(reading.probabilities(), wanted(backend, probes, rows))


@each_name
@torch.no_grad()
@pytest.mark.parametrize("rows", [ROWS, [ROWS[0][:5], ROWS[1][:1], ROWS[2][:4]]], ids=len)
@pytest.mark.parametrize("say", [False, True], ids=["positions", "cu_seq_lens_q"])
def test_a_packed_batch_equals_single_sequences(
    name: str, rows: Any, say: bool, backend: TransformersBackend, probes: list[Artefact]
) -> None:
    lengths = torch.tensor([len(row) for row in rows])
    bounds = torch.cat([torch.zeros(1), lengths.cumsum(0)]).int().to(DEVICE)
    extra = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds} if say else {}
    with attach(backend.model, probes) as reading:
        backend.model(
            input_ids=torch.tensor([[token for row in rows for token in row]], device=DEVICE),
            position_ids=torch.cat([torch.arange(n) for n in lengths])[None].to(DEVICE),
            use_cache=False,
            **extra,
        )

    assert_equal(reading.probabilities(), wanted(backend, probes, rows))


@torch.no_grad()
def test_cu_seq_lens_q_without_positions_is_refused_where_tokens_see_across(
    backend: TransformersBackend, every: list[Artefact]
) -> None:
    """Its attention makes its masks from positions alone: each sequence saw the ones before it."""
    bounds = torch.tensor([0, 7, 8, 20], dtype=torch.int32, device=DEVICE)
    with (
        attach(backend.model, every),
        pytest.raises(StateError, match="lets them see each other"),
    ):
        backend.model(
            input_ids=torch.tensor([ROWS[0][:20]], device=DEVICE),
            cu_seq_lens_q=bounds,
            use_cache=False,
        )


# --- chunks and caches


@each_name
@pytest.mark.parametrize("chunk", CHUNKS)
def test_chunked_prefill_equals_one_pass(
    name: str, chunk: int, backend: TransformersBackend, probes: list[Artefact]
) -> None:
    row = random_ids(53, 7)
    with watch(backend, probes) as reading:
        run(backend, row, chunk, backend.new_cache())

    assert_equal(reading.probabilities(), wanted(backend, probes, [row]))


@each_name
@pytest.mark.parametrize("chunk", [1, 4, 15])
def test_a_left_padded_batch_in_chunks_equals_single_sequences(
    name: str, chunk: int, backend: TransformersBackend, probes: list[Artefact]
) -> None:
    """Also where a row's first chunk is all padding."""
    ids, mask = pad_batch(ROWS)
    cache = backend.new_cache()
    with watch(backend, probes) as reading:
        for begin in range(0, ids.shape[1], chunk):
            end = begin + chunk
            backend.forward(ids[:, begin:end], mask[:, :end], cache)

    assert_equal(reading.probabilities(), wanted(backend, probes, ROWS))


@each_name
def test_token_by_token_equals_all_that_was_read_so_far(
    name: str, backend: TransformersBackend, probes: list[Artefact]
) -> None:
    row, cache = ROWS[2], backend.new_cache()
    states = full_states(backend, row)
    with watch(backend, probes) as reading:
        for seen in range(1, len(row) + 1):
            run(backend, row[:seen], 1, cache, done=seen - 1)
            offline_now = {a.name: offline(a, states[:, :seen])[None] for a in probes}
            assert_equal(reading.probabilities(), offline_now)


@each_name
def test_two_caches_in_turn_do_not_disturb_each_other(
    name: str, backend: TransformersBackend, probes: list[Artefact]
) -> None:
    one, two = backend.new_cache(), backend.new_cache()
    cuts = [(0, 3), (3, 20), (20, 21), (21, 23)]
    with watch(backend, probes) as reading:
        for begin, end in cuts:
            run(backend, ROWS[0][:end], end - begin, one, done=begin)
            assert_equal(reading.probabilities(), wanted(backend, probes, [ROWS[0][:end]]))
            end = min(end, len(ROWS[2]))
            run(backend, ROWS[2][:end], end - begin, two, done=min(begin, end))
            if begin < end:
                assert_equal(reading.probabilities(), wanted(backend, probes, [ROWS[2][:end]]))


def test_probes_of_different_layers_are_read_in_one_pass(backend: TransformersBackend) -> None:
    subsets = [(0,), (4,), (1, 3), (2, 3, 4), (0, 1, 2, 3, 4), (1, 3)]
    kinds = ["gate", "pooling", "gate-paper", "mha", "mha-causal", "concat"]
    probes = [
        make_artefact(f"p{i}", backend.identity, kind, "multiclass", layers, seed=i)
        for i, (layers, kind) in enumerate(
            [*zip(subsets, kinds, strict=True), *zip(subsets, kinds[::-1], strict=True)]
        )
    ]
    row, cache = ROWS[0], backend.new_cache()
    with watch(backend, probes) as reading:
        run(backend, row[:18], 18, cache)
        run(backend, row, 3, cache, done=18)

    assert_equal(reading.probabilities(), wanted(backend, probes, [row]))


# --- the engine's own loop


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_sample": True, "temperature": 2.0},
        {"prefill_chunk_size": 5},
        {"cache_implementation": "static"},
    ],
    ids=["greedy", "sampled", "chunked", "static"],
)
def test_generate_inside_attach_reads_all_but_the_last_token(
    options: dict[str, Any], backend: TransformersBackend, every: list[Artefact]
) -> None:
    """With a static cache, padding was read as tokens: its mask comes in another shape."""
    rows = [row[:9] for row in ROWS] if "prefill_chunk_size" in options else ROWS
    ids, mask = pad_batch(rows)
    with attach(backend.model, every) as reading:
        out: Any = backend.model.generate(
            ids.to(DEVICE),
            attention_mask=mask.long().to(DEVICE),
            max_new_tokens=8,
            pad_token_id=0,
            **options,
        )

    read = [out[i, ids.shape[1] - len(row) : -1].tolist() for i, row in enumerate(rows)]
    assert [len(r) for r in read] == [len(row) + 7 for row in rows]
    assert_equal(reading.probabilities(), wanted(backend, every, read))
    prompts = wanted(backend, every, rows)
    for i, verdicts in enumerate(reading.prompt_verdicts()):
        got = {a.name: probs_of(verdicts[a.name], a) for a in every}
        assert_equal(got, {n: p[i] for n, p in prompts.items()})


@torch.no_grad()
def test_beam_search_moves_verdicts_along_with_the_rows(
    backend: TransformersBackend, every: list[Artefact]
) -> None:
    """At every step, row i's verdict is that of the tokens that beam i then consists of."""
    from transformers import LogitsProcessorList

    prompts, steps = [ROWS[0][:6], ROWS[2][:6]], list[tuple[Tensor, dict[str, Tensor]]]()
    with attach(backend.model, every) as reading:

        def note(ids: Tensor, scores: Tensor) -> Tensor:
            steps.append((ids.clone(), reading.probabilities()))
            return scores

        out: Any = backend.model.generate(
            torch.tensor(prompts, device=DEVICE),
            attention_mask=torch.ones(2, 6, dtype=torch.long, device=DEVICE),
            num_beams=3,
            num_return_sequences=3,
            max_new_tokens=8,
            do_sample=False,
            pad_token_id=0,
            logits_processor=LogitsProcessorList([note]),
        )
    assert len(steps) == 8
    moved = 0
    for (before, _), (ids, probs) in zip([steps[0], *steps], steps, strict=False):
        assert_equal(probs, wanted(backend, every, ids.tolist()))
        moved += not torch.equal(ids[:, : before.shape[1]], before)
    assert moved >= 3
    # What is returned has been read up to its last token.
    last = {tuple(row): i for i, row in enumerate(steps[-1][0].tolist())}
    returned = [last[tuple(row[:-1])] for row in out.tolist()]
    final = {n: p[returned] for n, p in steps[-1][1].items()}
    assert_equal(final, wanted(backend, every, out[:, :-1].tolist()))


# --- what was never seen


def test_a_cache_filled_before_attaching_is_an_error(
    backend: TransformersBackend, every: list[Artefact]
) -> None:
    cache = backend.new_cache()
    run(backend, ROWS[0][:5], 5, cache)
    with (
        watch(backend, every),
        pytest.raises(StateError, match=r"holds 5 tokens, but the probes have read 0"),
    ):
        run(backend, ROWS[0], 3, cache, done=5)


def test_a_cropped_cache_is_an_error(backend: TransformersBackend, every: list[Artefact]) -> None:
    cache: Any = backend.new_cache()
    with watch(backend, every):
        run(backend, ROWS[0][:9], 9, cache)
        cache.crop(-2)
        with pytest.raises(StateError, match=r"holds 7 tokens, .* have read 9"):
            run(backend, ROWS[0], 3, cache, done=7)


def test_a_cache_that_was_emptied_starts_afresh(
    backend: TransformersBackend, every: list[Artefact]
) -> None:
    cache: Any = backend.new_cache()
    with watch(backend, every) as reading:
        run(backend, ROWS[0], 9, cache)
        cache.reset()
        run(backend, ROWS[2], 9, cache)

    assert_equal(reading.probabilities(), wanted(backend, every, [ROWS[2]]))


def test_a_batch_that_grew_behind_the_probes_back_is_an_error(
    backend: TransformersBackend, every: list[Artefact]
) -> None:
    cache: Any = backend.new_cache()
    with watch(backend, every):
        run(backend, ROWS[0][:9], 9, cache)
        cache.batch_repeat_interleave(2)
        with pytest.raises(StateError, match=r"2 rows, but the probes have read 1"):
            backend.forward(torch.ones(2, 1, dtype=torch.long), torch.ones(2, 10).bool(), cache)


@torch.no_grad()
def test_going_on_from_a_packed_batch_is_an_error(
    backend: TransformersBackend, every: list[Artefact]
) -> None:
    cache = backend.new_cache()
    apart = torch.block_diag(torch.ones(3, 3), torch.ones(2, 2)).tril().bool()
    with attach(backend.model, every):
        backend.model(
            torch.tensor([ROWS[0][:5]], device=DEVICE),
            attention_mask=apart[None, None].to(DEVICE),
            position_ids=torch.tensor([[0, 1, 2, 0, 1]], device=DEVICE),
            **{backend.cache_word: cache},
        )
        with pytest.raises(StateError, match="do not go on from a packed batch"):
            run(backend, ROWS[0][:6], 1, cache, done=5)


@pytest.fixture
def broken() -> Iterator[tuple[TransformersBackend, int, int]]:
    """A model whose second block spoils the state of one token: layer 2, token 5."""
    backend = TransformersBackend(tiny_model())

    def spoil(_: Any, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        if output.shape[1] > 5:  # the pass that tries whether blocks loop has one token
            output[-1, 5] = torch.nan
        return output

    handle = backend.blocks[1].register_forward_hook(spoil)
    yield backend, 2, 5
    handle.remove()


@each_name
@pytest.mark.parametrize("tokens", [8, 30], ids=["small", "large"])
def test_a_state_that_is_not_finite_is_an_error_that_names_layer_and_token(
    name: str, tokens: int, broken: tuple[TransformersBackend, int, int]
) -> None:
    backend, layer, token = broken
    probes = [a for a in all_artefacts(backend.identity, (1, 2)) if a.card.probe == name]
    ids = torch.tensor([random_ids(tokens), random_ids(tokens, 1)])
    with (
        watch(backend, probes),
        pytest.raises(StateError, match=rf"layer {layer} .* at token {token} of row 1"),
    ):
        backend.forward(ids, torch.ones_like(ids).bool())


@each_name
@pytest.mark.parametrize("tokens", [8, 30], ids=["small", "large"])
def test_padding_that_is_not_finite_is_no_error(
    name: str, tokens: int, broken: tuple[TransformersBackend, int, int]
) -> None:
    backend, layer, token = broken
    probes = [a for a in all_artefacts(backend.identity, (1, layer)) if a.card.probe == name]
    row = random_ids(tokens)
    mask = torch.ones(2, tokens, dtype=torch.bool)
    mask[1, : token + 1] = False
    with watch(backend, probes) as reading:
        backend.forward(torch.tensor([row, row]), mask)

    for probs in reading.probabilities().values():
        assert bool(probs.isfinite().all())


@torch.no_grad()
def test_in_a_packed_batch_row_and_token_are_the_sequences_own(
    broken: tuple[TransformersBackend, int, int],
) -> None:
    backend, layer, _ = broken
    probe = make_artefact("p", backend.identity)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]], device=DEVICE)
    with (
        attach(backend.model, probe),
        pytest.raises(StateError, match=rf"layer {layer} .* at token 2 of row 1"),
    ):
        backend.model(
            torch.tensor([ROWS[0][:7]], device=DEVICE), position_ids=positions, use_cache=False
        )


# --- streams


def language_models() -> dict[str, LanguageModel]:
    tiny = tiny_backend()
    return {"fake": LanguageModel(FakeBackend()), "llama": LanguageModel(tiny)}


@pytest.fixture(scope="module", params=["fake", "llama"])
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    return language_models()[request.param]


PROMPT = "Tell me a story of two dragons, please."


def assert_verdicts(
    got: Mapping[str, Verdict], artefacts: Sequence[Artefact], states: Tensor
) -> None:
    """Verdicts equal the probes run offline on these states; none if there are none."""
    if not states.shape[1]:
        assert got == {}
        return
    assert_equal(
        {
            name: probs_of(v, next(a for a in artefacts if a.name == name))
            for name, v in got.items()
        },
        {a.name: offline(a, states) for a in artefacts},
    )


@pytest.mark.parametrize("template", ["raw", "chat"])
@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_labels_in_a_stream_equal_the_probes_run_offline(
    template: Any, temperature: float, lm: LanguageModel
) -> None:
    probes = all_artefacts(lm.backend.identity, template=template)
    sampling = Sampling(temperature=temperature, seed=4)
    stream = lm.stream(PROMPT, probes, 12, sampling, template)
    prompt = lm.backend.encode(PROMPT, template)
    assert_verdicts(stream.prompt, probes, full_states(lm.backend, prompt))
    events = list(stream)

    result = stream.result
    assert result is not None
    assert [e.token_id for e in events] == list(result.token_ids)
    states = full_states(lm.backend, [*prompt, *result.token_ids])[:, len(prompt) :]
    for read, event in enumerate(events):
        assert_verdicts(event.verdicts, probes, states[:, :read])
    last = len(events) - (result.finish_reason == "length")
    assert_verdicts(result.response, probes, states[:, :last])
    assert result.prompt == stream.prompt
    scored = lm.score([PROMPT], probes, template)[0]
    for a in probes:
        got, alone = (probs_of(v[a.name], a) for v in (stream.prompt, scored))
        assert distance(got, alone) <= LIMIT


def test_an_answer_that_ends_by_itself_has_all_its_tokens_read() -> None:
    """The end token is the last that was sampled: it is neither in the answer nor read."""
    lm = language_models()["llama"]
    probe = make_artefact("p", lm.backend.identity)
    greedy = lm.generate(PROMPT, [probe], 12, template="raw")
    end = greedy.token_ids[-1]
    first = greedy.token_ids.index(end)
    lm.backend.end_ids = frozenset([end])
    stream = lm.stream(PROMPT, [probe], 12, template="raw")
    events = list(stream)

    result = stream.result
    assert result is not None
    assert (result.finish_reason, result.token_ids) == ("stop", greedy.token_ids[:first])
    assert len(events) == first
    prompt = lm.backend.encode(PROMPT, "raw")
    states = full_states(lm.backend, [*prompt, *result.token_ids])[:, len(prompt) :]
    assert_verdicts(result.response, [probe], states)


def test_what_the_model_runs_between_two_tokens_changes_nothing(lm: LanguageModel) -> None:
    """A second stream failed on the first one's cache; a score in between became its verdict."""
    probe = make_artefact("p", lm.backend.identity)
    one, two = (lm.generate(text, [probe], 8, template="raw") for text in (PROMPT, "Hello!"))
    first = lm.stream(PROMPT, [probe], 8, template="raw")
    seen = [next(first), next(first)]
    second = lm.stream("Hello!", [probe], 8, template="raw")
    for a, b in zip(first, second, strict=False):
        seen += [a]
        lm.score(["Something else."], [probe])
        assert b.verdicts.keys() <= {"p"}
    rest = list(second)

    assert [e.token_id for e in seen] == list(one.token_ids)
    assert rest
    assert first.result is not None
    assert second.result is not None
    assert (first.result.response, first.result.prompt) == (one.response, one.prompt)
    assert (second.result.response, second.result.prompt) == (two.response, two.prompt)


def test_a_batch_of_answers_has_the_verdicts_of_single_ones(lm: LanguageModel) -> None:
    probes = all_artefacts(lm.backend.identity)
    rows = [lm.backend.encode(text, "raw") for text in (PROMPT, "Hello!", "A b c d.")]
    sampler = Sampler(Sampling(), lm.backend.device)
    with watch(lm.backend, probes) as reading:
        steps = decode_steps(lm.backend, *pad_batch(rows), 6, sampler)
        tokens = [next(steps)]
        reading.cut()
        tokens += list(steps)

    answers = torch.stack(tokens, 1).tolist()
    for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        states = full_states(lm.backend, [*row, *answer])[:, len(row) :]
        assert_verdicts(reading.verdicts()[i], probes, states)


# --- wide states are not kept


def storages_of(reading: Reading) -> int:
    """Bytes of every tensor that can be reached from what a reading follows, views in full."""
    follows = {
        name: value
        for name, value in vars(reading).items()
        if name not in {"groups", "artefacts", "_step"}  # weights, and what the engine has anyway
    }
    found: dict[int, int] = {}
    seen: set[int] = set()
    queue: list[Any] = [follows]
    while queue:
        thing = queue.pop()
        if id(thing) in seen or isinstance(thing, str | int | type):
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(thing, Mapping):
            queue += thing.values()
        elif isinstance(thing, list | tuple):
            queue += thing
        elif hasattr(thing, "__dict__"):
            queue += vars(thing).values()
    return sum(found.values())


def held(backend: Backend, probes: Sequence[Artefact], tokens: int) -> tuple[int, int, int]:
    """Bytes held, by the reading and by counting, while a prompt runs; and those of its states."""
    most = [0, 0]
    with watch(backend, probes) as reading:

        class Counter:
            """Looks after the reading has seen each layer."""

            def start(self, step: Any) -> None: ...

            def see(self, layer: int, hidden: Tensor) -> None:
                most[0] = max(most[0], reading.held_bytes)
                most[1] = max(most[1], storages_of(reading))

            def end(self, cache: object | None) -> None:
                self.see(0, torch.zeros(1))

            def move(self, cache: object, rows: Tensor) -> None: ...

        layers = range(backend.identity.num_layers + 1)
        with backend.watch(Counter(), layers):
            run(backend, random_ids(tokens), tokens, backend.new_cache())
    states = len(layers) * tokens * backend.identity.dim * 4
    return most[0], most[1], states


def test_gates_keep_less_than_2_percent_of_the_states_bytes(backend: TransformersBackend) -> None:
    known = all_artefacts(backend.identity)
    probes = [a for a in known if a.card.probe in {"gate", "gate-paper"}]
    said, counted, states = held(backend, probes, FOLDED_TOKENS + 1)

    assert len(probes) == 4
    assert 0 < said < 0.02 * states
    assert 0 < counted < 0.02 * states


def test_a_kv_cache_is_freed_as_soon_as_nobody_else_holds_it(
    backend: TransformersBackend, every: list[Artefact]
) -> None:
    """The last one was kept alive by the note of the last pass."""
    with watch(backend, every) as reading:
        cache = backend.new_cache()
        last = weakref.ref(cache)
        run(backend, ROWS[0], 20, cache)
        reading.cut()
        reading.stay()
        del cache
        assert last() is None


def test_what_gates_keep_does_not_grow_with_the_prompt(backend: TransformersBackend) -> None:
    probe = make_artefact("p", backend.identity)

    one, two = (held(backend, [probe], FOLDED_TOKENS + more)[0] for more in (1, 200))
    assert one == two


def test_a_chunk_that_is_folded_in_one_go_keeps_its_values_and_no_states(
    backend: TransformersBackend,
) -> None:
    probe = make_artefact("p", backend.identity)
    tap = probe.network.tap()
    values = len(probe.card.layers) * FOLDED_TOKENS * (tap.num_values + 1) * 4  # and a norm
    for measured in held(backend, [probe], FOLDED_TOKENS)[:2]:
        assert values <= measured < 1.05 * values


def test_the_count_of_bytes_sees_states_that_are_kept(backend: TransformersBackend) -> None:
    """The negative control: a chunk this small is held whole until the last layer."""
    probe = make_artefact("p", backend.identity)
    said, counted, states = held(backend, [probe], HELD_TOKENS)

    assert said >= states
    assert counted >= states


def test_no_gradient_graph_is_kept_when_the_user_does_not_turn_it_off(
    backend: TransformersBackend, every: list[Artefact]
) -> None:
    with attach(backend.model, every) as reading:
        for tokens in (8, 40):
            backend.model(torch.tensor([random_ids(tokens)], device=DEVICE))
            for probs in reading.probabilities().values():
                assert not probs.requires_grad
