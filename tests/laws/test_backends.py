"""The laws of every backend: which state a layer is, and that nothing is left behind.

The reference of the transformers backend is the library's own `output_hidden_states=True`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pillion.backends import Backend, Watcher
from pillion.backends.fake import FakeBackend
from pillion.backends.transformers import TransformersBackend
from pillion.errors import ConfigError
from pillion.runtime import pad_batch
from tiny_models import CONFIGS, Recorder, distance, hooks_of, random_ids, tiny_model

each_config = pytest.mark.parametrize("kind", CONFIGS)
LENGTHS = (9, 4, 7)

BACKENDS = {
    "fake": FakeBackend,
    **{kind: lambda kind=kind: TransformersBackend(tiny_model(kind)) for kind in CONFIGS},
}
each_backend = pytest.mark.parametrize("name", BACKENDS)


def final_norm(model: Any) -> torch.nn.Module:
    decoder = model.get_decoder()
    return decoder.ln_f if hasattr(decoder, "ln_f") else decoder.norm


def batch_of(side: str = "left") -> tuple[Tensor, Tensor]:
    """Token ids of LENGTHS, padded, and the mask of tokens."""
    longest = max(LENGTHS)
    ids, mask = torch.zeros(3, longest, dtype=torch.long), torch.zeros(3, longest, dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        place = slice(longest - length, None) if side == "left" else slice(0, length)
        ids[row, place], mask[row, place] = torch.tensor(random_ids(length, row)), True
    return ids, mask


def seen(backend: Backend, ids: Tensor, mask: Tensor, cache: object = None) -> dict[int, Tensor]:
    recorder = Recorder()
    with backend.watch(recorder, range(backend.identity.num_layers + 1)):
        backend.forward(ids, mask, cache)
    return recorder.passes[0]


# --- which state a layer is


@each_config
@torch.no_grad()
def test_layer_i_is_what_transformers_calls_hidden_state_i(kind: str) -> None:
    model = tiny_model(kind)
    backend = TransformersBackend(model)
    ids = torch.tensor([random_ids(11), random_ids(11, 1)])
    states = seen(backend, ids, torch.ones_like(ids, dtype=torch.bool))
    library = model(ids, output_hidden_states=True).hidden_states

    last = backend.identity.num_layers
    assert len(library) == last + 1
    assert sorted(states) == list(range(last + 1))
    for layer in range(last):
        assert torch.equal(states[layer], library[layer]), layer
    # The library's last entry is behind the final norm, ours before it.
    assert torch.equal(final_norm(model)(states[last]), library[last])
    assert distance(states[last], library[last]) > 0.01


@each_config
@torch.no_grad()
def test_layers_differ_so_that_a_shift_by_one_would_show(kind: str) -> None:
    backend = TransformersBackend(tiny_model(kind))
    ids = torch.tensor([random_ids(11)])
    states = seen(backend, ids, torch.ones_like(ids, dtype=torch.bool))

    for layer in range(backend.identity.num_layers):
        assert distance(states[layer], states[layer + 1]) > 0.01


@each_backend
def test_only_the_layers_that_were_asked_for_are_shown(name: str) -> None:
    backend, recorder = BACKENDS[name](), Recorder()
    last = backend.identity.num_layers
    with backend.watch(recorder, [1, last]):
        backend.forward(*batch_of())
        backend.forward(*batch_of("right"))

    assert [sorted(states) for states in recorder.passes] == [[1, last]] * 2


# --- what a pass is


@each_backend
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_the_states_of_tokens(name: str, side: str) -> None:
    backend = BACKENDS[name]()
    ids, mask = batch_of(side)
    states = seen(backend, ids, mask)

    for row, length in enumerate(LENGTHS):
        alone = seen(backend, ids[row, mask[row]][None], torch.ones(1, length, dtype=torch.bool))
        for layer, hidden in states.items():
            assert distance(hidden[row, mask[row]], alone[layer][0]) < 1e-5


@each_backend
@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_chunks_through_a_cache_give_the_states_of_one_pass(name: str, chunk: int) -> None:
    """Also where a chunk of a row is all padding."""
    backend, recorder = BACKENDS[name](), Recorder()
    ids, mask = batch_of("left")
    cache = backend.new_cache()
    with backend.watch(recorder, range(backend.identity.num_layers + 1)):
        for begin in range(0, ids.shape[1], chunk):
            end = begin + chunk
            backend.forward(ids[:, begin:end], mask[:, :end], cache)
    whole = seen(backend, ids, mask)

    assert torch.equal(torch.cat(recorder.masks, 1), mask)
    for layer, hidden in whole.items():
        pieces = torch.cat([states[layer] for states in recorder.passes], 1)
        assert distance(pieces[mask], hidden[mask]) < 1e-5


@each_backend
def test_logits_are_of_the_next_token_and_only_where_asked_for(name: str) -> None:
    backend = BACKENDS[name]()
    ids, mask = batch_of("left")
    logits = backend.forward(ids, mask, logits=True)

    assert backend.forward(ids, mask) is None
    assert logits is not None
    for row, length in enumerate(LENGTHS):
        alone = backend.forward(
            ids[row, mask[row]][None], torch.ones(1, length, dtype=torch.bool), logits=True
        )
        assert alone is not None
        assert distance(logits[row], alone[0]) < 1e-5


# --- early exit


class Ending(Recorder):
    """Counts the passes that were told to be over."""

    ended = 0

    def end(self, cache: object | None) -> None:
        self.ended += 1


@each_backend
def test_a_pass_that_is_only_watched_shows_the_states_of_a_whole_pass(name: str) -> None:
    backend = BACKENDS[name]()
    ids, mask = batch_of()
    whole = seen(backend, ids, mask)
    for top in range(backend.identity.num_layers + 1):
        few = Ending()
        with backend.watch(few, sorted({0, top})):
            backend.forward(ids, mask)
        assert few.ended == 1
        (states,) = few.passes
        assert sorted(states) == sorted({0, top})
        assert all(torch.equal(states[layer], whole[layer]) for layer in states)


@each_config
def test_no_block_above_the_highest_watched_layer_is_run(kind: str) -> None:
    backend, ran = TransformersBackend(tiny_model(kind)), list[int]()
    with backend.watch(Recorder(), [0]):
        backend.forward(*batch_of())  # the first pass tries whether blocks loop
    for number, block in enumerate(backend.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    every = list(range(len(backend.blocks)))

    for top in range(len(every) + 1):
        with backend.watch(Recorder(), [0]), backend.watch(Recorder(), [top]):
            ran.clear()
            backend.forward(*batch_of())
            assert ran == every[:top]
            for keywords in ({"logits": True}, {"cache": backend.new_cache()}):
                ran.clear()  # what is above is needed for the next token
                backend.forward(*batch_of(), **keywords)
                assert ran == every
            ran.clear()  # unless it is said that no next token will come
            backend.forward(*batch_of(), backend.new_cache(), watched_only=True)
            assert ran == every[:top]
    ran.clear()
    backend.forward(*batch_of())
    assert ran == every


# --- nothing is left behind


class Breaking(Recorder):
    def see(self, layer: int, hidden: Tensor) -> None:
        raise ValueError(f"layer {layer}")


@each_config
def test_hooks_are_gone_after_the_context(kind: str) -> None:
    model = tiny_model(kind)
    backend, before = TransformersBackend(model), hooks_of(model)
    with backend.watch(Recorder(), range(4)):
        assert hooks_of(model) > before
        backend.forward(*batch_of())

    assert hooks_of(model) == before


@each_config
@pytest.mark.parametrize("watcher", [Breaking(), Recorder()], ids=["watcher", "body"])
def test_hooks_are_gone_after_an_exception_inside(kind: str, watcher: Watcher) -> None:
    model = tiny_model(kind)
    backend, before = TransformersBackend(model), hooks_of(model)
    with pytest.raises(ValueError, match=r"layer|body"), backend.watch(watcher, range(4)):
        backend.forward(*batch_of())
        raise ValueError("body")

    assert hooks_of(model) == before


@each_backend
def test_after_the_context_nothing_is_shown(name: str) -> None:
    backend, recorder = BACKENDS[name](), Recorder()
    with backend.watch(recorder, [0]):
        pass
    with pytest.raises(ValueError, match="layer 0"), backend.watch(Breaking(), [0]):
        backend.forward(*batch_of())
    backend.forward(*batch_of())

    assert recorder.passes == []


@each_backend
def test_several_watchers_are_shown_the_same_states(name: str) -> None:
    backend, outer, inner = BACKENDS[name](), Recorder(), Recorder()
    with backend.watch(outer, [0, 2]):
        with backend.watch(inner, [2]):
            backend.forward(*batch_of())
        backend.forward(*batch_of())

    assert [sorted(states) for states in outer.passes] == [[0, 2]] * 2
    assert [sorted(states) for states in inner.passes] == [[2]]
    assert torch.equal(outer.passes[0][2], inner.passes[0][2])


@each_backend
def test_watching_does_not_change_what_the_model_says(name: str) -> None:
    backend = BACKENDS[name]()
    ids, mask = batch_of()
    bare = backend.forward(ids, mask, logits=True)
    with backend.watch(Recorder(), range(backend.identity.num_layers + 1)):
        watched = backend.forward(ids, mask, logits=True)

    assert bare is not None
    assert watched is not None
    assert torch.equal(bare, watched)


# --- logits of states, copies of a cache


@each_backend
def test_logits_of_the_last_layers_state_are_those_of_the_pass(name: str) -> None:
    backend = BACKENDS[name]()
    ids, mask = batch_of("left")
    states = seen(backend, ids, mask)
    wanted = backend.forward(ids, mask, logits=True)
    assert wanted is not None
    last = backend.identity.num_layers
    assert distance(backend.unembed(states[last][:, -1]), wanted) < 1e-5
    assert distance(backend.unembed(states[last - 1][:, -1]), wanted) > 0.01


def test_a_model_that_does_more_to_a_state_than_norm_and_head_is_refused() -> None:
    other = TransformersBackend(tiny_model("llama"))
    scaled = other.model.forward
    other.model.forward = lambda *a, **k: _scaled(scaled(*a, **k))
    with pytest.raises(ConfigError, match="does more than a final norm and a linear head"):
        other.unembed(torch.ones(1, other.identity.dim))


def _scaled(output: Any) -> Any:
    output.logits = output.logits * 2
    return output


@each_backend
def test_a_forked_cache_goes_on_as_the_whole_text_does(name: str) -> None:
    backend = BACKENDS[name]()
    head, tails = random_ids(6), [random_ids(4, 1), random_ids(2, 2)]
    cache = backend.new_cache()
    backend.forward(*pad_batch([head]), cache=cache)
    ids, mask = pad_batch(tails)
    seen_mask = torch.cat([mask.new_ones(2, len(head)), mask], 1)
    found = [backend.forward(ids, seen_mask, backend.fork(cache, 2), logits=True) for _ in range(2)]
    wanted = [backend.forward(*pad_batch([head + tail]), logits=True) for tail in tails]
    assert found[0] is not None and found[1] is not None
    assert distance(found[0], torch.cat([row for row in wanted if row is not None])) < 1e-5
    assert torch.equal(found[0], found[1]), "the cache that was copied has changed"
    alone = backend.forward(ids, mask, logits=True)
    assert alone is not None and distance(found[0], alone) > 0.01
