"""The laws of rows that leave a pass: those that stay are read as if none had left.

The reference is the whole pass over the same batch, and each row's own read-out by the plain
definition on the first layers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pillion.backends import Backend
from pillion.backends.fake import FakeBackend
from pillion.backends.transformers import TransformersBackend
from pillion.core import Tokens, Turn
from pillion.errors import ConfigError, StateError
from pillion.probe import Artefact
from pillion.probe.group import group
from pillion.runtime import (
    ContinuousEngine,
    ExitReading,
    LanguageModel,
    PagedSettings,
    PlainEngine,
    pad_batch,
)
from tiny_models import CONFIGS, Recorder, hooks_of, make_artefact, random_ids, tiny_model

LENGTHS = (9, 4, 7, 1, 8, 9)
LEAVE = {1: (1, 4), 2: (0,)}
"""Layer -> rows that leave behind it, by their places in the batch."""
BACKENDS = {
    "fake": FakeBackend,
    **{kind: lambda kind=kind: TransformersBackend(tiny_model(kind)) for kind in CONFIGS},
}
each_backend = pytest.mark.parametrize("name", BACKENDS)
each_side = pytest.mark.parametrize("side", ["left", "right"])


def batch_of(side: str, lengths: Sequence[int] = LENGTHS) -> tuple[Tensor, Tensor]:
    longest = max(lengths)
    ids = torch.zeros(len(lengths), longest, dtype=torch.long)
    mask = torch.zeros(len(lengths), longest, dtype=torch.bool)
    for row, length in enumerate(lengths):
        place = slice(longest - length, None) if side == "left" else slice(0, length)
        ids[row, place], mask[row, place] = torch.tensor(random_ids(length, row)), True
    return ids, mask


class Scripted:
    """Lets rows leave as it was told, and keeps what it sees of the others."""

    def __init__(self, leave: dict[int, tuple[int, ...]], num_rows: int) -> None:
        self.leave, self.stops = leave, tuple(leave)
        self.rows = list(range(num_rows))
        self.seen: dict[int, tuple[list[int], Tensor]] = {}
        self.mask = torch.zeros(0)
        self.ended = 0

    def start(self, step: Any) -> None:
        self.mask = step.mask

    def see(self, layer: int, hidden: Tensor) -> None:
        self.seen[layer] = (self.rows, hidden.clone())

    def staying(self, layer: int) -> Tensor:
        stay = [place for place, row in enumerate(self.rows) if row not in self.leave[layer]]
        self.rows = [self.rows[place] for place in stay]
        return torch.tensor(stay, dtype=torch.long)

    def end(self, cache: object | None) -> None:
        self.ended += 1

    def move(self, cache: object, rows: Tensor) -> None:
        raise AssertionError


def run_early_exit(backend: Backend, leave: dict[int, tuple[int, ...]], side: str) -> Scripted:
    ids, mask = batch_of(side)
    watcher = Scripted(leave, len(ids))
    backend.run_early_exit(watcher, range(backend.identity.num_layers + 1), ids, mask)
    return watcher


# --- states


@each_backend
@each_side
def test_rows_that_stay_have_the_states_of_the_whole_pass(name: str, side: str) -> None:
    backend = BACKENDS[name]()
    watcher = run_early_exit(backend, LEAVE, side)
    whole = Recorder()
    with backend.watch(whole, range(backend.identity.num_layers + 1)):
        backend.forward(*batch_of(side))

    wanted, last = whole.passes[0], backend.identity.num_layers
    assert watcher.seen[last][0] == [2, 3, 5]
    for layer, (rows, states) in watcher.seen.items():
        own = watcher.mask[rows]
        assert (states - wanted[layer][rows])[own].abs().max() < 1e-4, layer
    # The law says something: another row's states at the last layer are others by far.
    other = watcher.seen[last][1] - wanted[last][[1, 0, 4]]
    assert other.abs().max() > 0.1


@each_backend
def test_a_pass_that_all_rows_have_left_runs_no_further_block_and_ends(name: str) -> None:
    backend = BACKENDS[name]()
    watcher = run_early_exit(backend, {1: (0, 1, 2, 3), 2: (4, 5)}, "left")

    assert sorted(watcher.seen) == [0, 1, 2]
    assert watcher.ended >= 1
    whole = Recorder()
    with backend.watch(whole, [0]):  # and the model is as it was
        backend.forward(*batch_of("left"))
    assert len(whole.passes[0][0]) == len(LENGTHS)


def test_no_hook_is_left_behind_whoever_leaves() -> None:
    model = tiny_model()
    backend = TransformersBackend(model)
    backend.check_early_exit()
    before = hooks_of(model)
    for leave in (LEAVE, {1: tuple(range(6))}):
        run_early_exit(backend, leave, "left")
        assert hooks_of(model) == before


def test_another_watcher_of_the_same_passes_is_told_that_its_batch_became_smaller() -> None:
    backend = TransformersBackend(tiny_model())
    backend.check_early_exit()
    with backend.watch(Recorder(), [3]), pytest.raises(StateError, match="has states of shape"):
        run_early_exit(backend, LEAVE, "left")


def test_a_model_whose_blocks_mix_rows_is_refused_in_a_sentence() -> None:
    model = tiny_model()
    block = model.get_decoder().layers[2]
    block.register_forward_hook(
        lambda _, __, out: out + out.mean(0, keepdim=True)  # no row is alone any more
    )
    backend = TransformersBackend(model)
    with pytest.raises(ConfigError, match=r"those that stay become others.*turn exits off"):
        backend.check_early_exit()


def test_a_model_that_gives_blocks_what_cannot_be_cut_is_refused_in_a_sentence() -> None:
    model = tiny_model()

    def flat(_: Any, args: Any, kwargs: Any) -> Any:
        cos, _ = kwargs["position_embeddings"]
        shape = (-1, *cos.shape[2:])
        own = kwargs["position_ids"].flatten()
        return args, kwargs | {"flat": cos.expand(len(own), -1, -1).reshape(shape)}

    for layer in model.get_decoder().layers:
        layer.register_forward_pre_hook(flat, with_kwargs=True)
    backend = TransformersBackend(model)
    with pytest.raises(ConfigError, match=r"cannot leave LlamaForCausalLM early.*turn exits off"):
        backend.check_early_exit()


# --- verdicts

DEPTHS = (1, 2)


def leaving_probe(
    name: str, identity: Any, low: float, high: float, patience: int | None = None, **how: Any
) -> Artefact:
    """A gate that leaves at depths 1 and 2 outside of a band, each with its own calibration."""
    probe = make_artefact(name, identity, **how)
    outputs = probe.card.shape.num_outputs
    reads = [
        {
            "depth": depth,
            "bands": ((low, high),) * outputs,
            "calibration": {
                "method": "temperature",
                "scales": (1.0 + depth,) * outputs,
                "offsets": (0.0,) * outputs,
            },
        }
        for depth in DEPTHS
    ]
    exit = {"reads": reads, "patience": patience, "found": {}}
    return probe.revised(depths=DEPTHS, exit=exit)


@torch.no_grad()
def expected(backend: Backend, probe: Artefact, rows: Sequence[Tokens]) -> list[list[float]]:
    """By the definition: each row alone, the network on the first layers, the rule written out."""
    card, found = probe.card, list[list[float]]()
    assert card.exit is not None
    for row in rows:
        recorder = Recorder()
        with backend.watch(recorder, card.layers):
            backend.forward(torch.tensor([list(row)]), torch.ones(1, len(row)).bool())
        hidden = torch.stack([recorder.passes[0][layer] for layer in card.layers])
        mask = torch.ones(1, len(row), dtype=torch.bool)
        last, count = None, 0
        for place, read in enumerate(card.exit.reads):
            num = sum(layer <= read.depth for layer in card.layers)
            logits = probe.network.depth_votes(hidden, mask, [num]).mean(0)[:, 0]
            probs = probe.probabilities_at(place, logits)[0]
            if card.task == "multiclass":
                label = int(probs.argmax())
                out = not read.bands[0][0] <= float(probs[label]) < read.bands[0][1]
            else:
                label = [float(p) >= 0.5 for p in probs]
                pairs = zip(probs.tolist(), read.bands, strict=True)
                out = not any(low <= p < high for p, (low, high) in pairs)
            count = count + 1 if label == last else 1
            last = label
            if out or (card.exit.patience and count >= card.exit.patience):
                found.append(probs.tolist())
                break
        else:
            found.append(probe.probabilities(probe.network(hidden, mask))[0].tolist())
    return found


def probabilities(verdicts: Sequence[Any], probe: Artefact) -> list[list[float]]:
    names = probe.card.labels[1:] if probe.card.task == "binary" else probe.card.labels
    return [[row[probe.name].probs[label] for label in names] for row in verdicts]


ROWS = [
    Tokens(random_ids(length, seed)) for seed, length in enumerate((9, 4, 7, 1, 8, 9, 3, 12, 5, 6))
]


def parting(backend: Backend, probe: Artefact) -> Artefact:
    """The probe with bands that let about half of the rows leave at each depth."""
    card = probe.card
    assert card.exit is not None
    reads = []
    for place, read in enumerate(card.exit.reads):
        wide = card.exit.reads[place].model_copy(update={"bands": ((0.0, 0.0),) * len(read.bands)})
        one = card.exit.model_copy(update={"reads": (wide,), "patience": None})
        probs = torch.tensor(expected(backend, probe.revised(exit=one), ROWS))
        if card.task == "multiclass":
            bands = ((0.0, float(probs.amax(1).quantile(0.5))),) * len(read.bands)
        else:
            width = float((probs - 0.5).abs().amin(1).quantile(0.5))
            bands = ((0.5 - width, 0.5 + width),) * len(read.bands)
        reads.append(read.model_copy(update={"bands": bands}))
    return probe.revised(exit=card.exit.model_copy(update={"reads": tuple(reads)}))


@pytest.mark.parametrize("name", ["fake", "llama", "gpt2"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("patience", [None, 2])
def test_a_text_leaves_at_the_first_depth_that_is_sure_and_says_what_that_depth_says(
    name: str, task: str, patience: int | None
) -> None:
    backend = BACKENDS[name]()
    probe = leaving_probe("p", backend.identity, 0.0, 1.0, patience=patience, task=task)
    probe = parting(backend, probe)
    groups = group([probe], torch.device("cpu"), torch.float32)
    reading = ExitReading(groups, ROWS)
    backend.run_early_exit(reading, reading.layers, *pad_batch(ROWS))
    assert 1 in reading.left_at and len({*reading.left_at}) > 1  # some leave, and not all
    wanted = torch.tensor(expected(backend, probe, ROWS))
    scored = LanguageModel(backend).score_rows(ROWS, [probe])
    for verdicts in (reading.verdicts(), scored):
        got = torch.tensor(probabilities(verdicts, probe))
        assert torch.allclose(got, wanted, atol=1e-5)


def test_a_text_stays_until_every_probe_is_sure_and_each_says_what_it_said_first() -> None:
    backend = BACKENDS["llama"]()
    one = leaving_probe("one", backend.identity, 0.45, 0.55)
    two = leaving_probe("two", backend.identity, 0.3, 0.7, seed=3, layers=(0, 1, 2, 3))
    scored = LanguageModel(backend).score_rows(ROWS, [one, two])
    for probe in (one, two):
        alone = LanguageModel(backend).score_rows(ROWS, [probe])
        pairs = zip(scored, alone, strict=True)
        assert all(
            abs(a[probe.name].probs["yes"] - b[probe.name].probs["yes"]) < 1e-5 for a, b in pairs
        )


def test_beside_a_probe_without_exits_and_without_its_exits_a_probe_reads_all_layers() -> None:
    backend = BACKENDS["llama"]()
    probe, plain = (
        leaving_probe("p", backend.identity, 0.5, 0.5),
        make_artefact("q", backend.identity),
    )
    lm = LanguageModel(backend)
    wanted = probabilities(lm.score_rows(ROWS, [probe.whole]), probe)
    beside = probabilities(lm.score_rows(ROWS, [probe, plain]), probe)
    early = probabilities(lm.score_rows(ROWS, [probe]), probe)
    assert torch.allclose(torch.tensor(beside), torch.tensor(wanted), atol=1e-6)
    assert not torch.allclose(torch.tensor(early), torch.tensor(wanted), atol=1e-2)


def test_a_probe_without_words_of_its_scope_in_a_row_has_no_verdict_on_it() -> None:
    backend = FakeBackend()
    probe = leaving_probe("p", backend.identity, 0.5, 0.5, scope="response", template="chat")
    asked = backend.encode_chat((Turn("user", "hi"),))
    answered = backend.encode_chat((Turn("user", "hi"), Turn("assistant", "no")))
    scored = LanguageModel(backend).score_rows([asked, answered], [probe])
    assert [sorted(row) for row in scored] == [[], ["p"]]


def test_states_that_are_not_finite_are_named_by_layer_and_row() -> None:
    backend = FakeBackend()
    backend.embeddings[7] = torch.nan
    probe = leaving_probe("p", backend.identity, 0.0, 1.0)
    with pytest.raises(StateError, match="layer 0 are not finite at token 2 of row 0"):
        LanguageModel(backend).score_rows([[1, 2, 7], [4, 5]], [probe])


# --- engines


@pytest.mark.parametrize("kind", ["continuous", "plain"])
def test_an_engine_classifies_by_exits_unless_it_is_asked_for_all_layers(kind: str) -> None:
    backend = TransformersBackend(tiny_model())
    backend.end_ids = frozenset()
    probe = leaving_probe("p", backend.identity, 0.45, 0.55)
    lm = LanguageModel(backend)
    wanted = [probabilities(lm.score_rows(ROWS, [one]), probe) for one in (probe, probe.whole)]

    async def ask() -> list[Any]:
        engine: Any = (
            PlainEngine(backend, [probe])
            if kind == "plain"
            else ContinuousEngine(backend, [probe], PagedSettings(cache_tokens=256))
        )
        if kind == "continuous":
            await engine.start()
        try:
            return [await engine.classify(ROWS, ["p"], whole=whole) for whole in (False, True)]
        finally:
            await engine.close()

    found = [probabilities(one, probe) for one in asyncio.run(ask())]
    assert torch.allclose(torch.tensor(found), torch.tensor(wanted), atol=1e-5)
    assert (torch.tensor(wanted[0]) - torch.tensor(wanted[1])).abs().max() > 0.01


def test_an_engine_refuses_exits_of_a_model_that_rows_cannot_leave() -> None:
    model = tiny_model()
    model.get_decoder().layers[2].register_forward_hook(lambda _, __, out: out + out.mean(0))
    backend = TransformersBackend(model)
    probe = leaving_probe("p", backend.identity, 0.45, 0.55)
    with pytest.raises(ConfigError, match="turn exits off"):
        PlainEngine(backend, [probe])
    assert PlainEngine(backend, [probe.whole]).probes
    with pytest.raises(ConfigError, match="turn exits off"):
        LanguageModel(backend).score_rows(ROWS, [replace(probe, name="other")])
