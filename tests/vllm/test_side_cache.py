"""The side cache alone: what it reads is what the plain definition says of whole texts."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from paging import PagedEngine, states
from torch import Tensor

from pillion.core import ModelIdentity
from pillion.errors import ConfigError
from pillion.probe import AGGREGATORS, Artefact
from pillion.vllm.layout import Layout, check_foldable
from tiny_models import make_artefact

DIM, LAYERS = 16, 4
IDENTITY = ModelIdentity("none", "w", "t", "c", LAYERS, DIM, "float32", 4096)
CPU = torch.device("cpu")


def foldable(name: str) -> bool:
    try:
        check_foldable(make_artefact(name, IDENTITY, name))
    except ConfigError:
        return False
    return True


FOLDABLE = [name for name in AGGREGATORS if foldable(name)]


def probes() -> list[Artefact]:
    """One of every kind and task, on different layers: several groups."""
    kinds = [(name, task) for name in FOLDABLE for task in ("binary", "multiclass")]
    return [
        make_artefact(f"{name}-{task}", IDENTITY, name, task, [0, 2, 4] if i % 3 else None, seed=i)
        for i, (name, task) in enumerate(kinds)
    ]


@torch.no_grad()
def by_definition(layout: Layout, text: list[int], begin: int, end: int) -> Tensor:
    """Logits of all probes on a part of a text, by `Network.forward`."""
    every = states(layout, text[:end], DIM)[:, begin:]
    mask = torch.ones(1, end - begin, dtype=torch.bool)
    parts = [a.network(every[list(a.card.layers)][:, None], mask) for a in layout.artefacts]
    return torch.cat(parts, 1)[0]


def run(seed: int, block_tokens: int) -> tuple[PagedEngine, dict[str, tuple[list[int], int]]]:
    rng = random.Random(seed)
    engine = PagedEngine(Layout(probes(), CPU), DIM, block_tokens, rng)
    shared = [rng.randrange(50) for _ in range(40)]
    texts: dict[str, tuple[list[int], int]] = {}
    for number in range(8):
        own = [rng.randrange(50) for _ in range(rng.randint(1, 30))]
        text = shared[: rng.choice([0, 8, 16, 33])] + own
        texts[str(number)] = (text, rng.randint(1, len(text)))
        engine.add(str(number), *texts[str(number)])
        engine.step()
    engine.run()
    return engine, texts


@pytest.mark.parametrize(("seed", "block_tokens"), [(0, 4), (1, 8), (2, 8), (3, 16), (4, 1)])
def test_any_schedule_reads_what_the_definition_says(seed: int, block_tokens: int) -> None:
    engine, texts = run(seed, block_tokens)
    assert engine.hits and engine.preemptions
    wanted = {(id, True, cut) for id, (_, cut) in texts.items()}
    wanted |= {(id, False, n) for id, (t, cut) in texts.items() for n in range(1, len(t) - cut + 1)}
    assert set(engine.reads) == wanted
    for (id, is_prompt, count), logits in engine.reads.items():
        text, cut = texts[id]
        if not is_prompt and count % 7 > 1 and count != len(text) - cut:
            continue
        begin, end = (0, cut) if is_prompt else (cut, cut + count)
        expected = by_definition(engine.layout, text, begin, end)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_a_layout_has_room_for_every_value_and_state() -> None:
    layout = Layout(probes(), CPU)
    assert layout.row_floats == sum(
        len(a.card.layers) * tap.num_values
        for a in layout.artefacts
        if (tap := a.network.tap()) is not None
    )
    assert layout.neutral(CPU).shape == (1, layout.state_floats)


def test_more_requests_than_expected_get_lanes_of_their_own() -> None:
    engine, _ = run(seed=5, block_tokens=8)
    assert len(engine.side.open) >= engine.tracker.num_lanes > engine.side.max_requests


@pytest.mark.parametrize("name", sorted(set(AGGREGATORS) - set(FOLDABLE)))
def test_a_probe_that_cannot_be_folded_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Probe 'odd' .{name}. .*pillion's own engine"):
        Layout([make_artefact("odd", IDENTITY, name)], CPU)


def test_two_probes_of_one_name_are_refused() -> None:
    twice: list[Any] = [make_artefact("same", IDENTITY, seed=i) for i in range(2)]
    with pytest.raises(ConfigError, match="same, same"):
        Layout(twice, CPU)
