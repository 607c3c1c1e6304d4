"""Probes on a model in the user's hands: whom they accept, and that they leave nothing behind."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pillion.backends.fake import FakeBackend
from pillion.backends.transformers import TransformersBackend
from pillion.errors import ArtefactError, ConfigError, MismatchError, StateError
from pillion.probe import Artefact
from pillion.runtime import Reading, attach, watch
from tiny_models import distance, hooks_of, make_artefact, random_ids, tiny_model, tiny_tokenizer

IDS = torch.tensor([random_ids(9)])


@pytest.fixture
def model() -> Any:
    return tiny_model()


@pytest.fixture
def probe(model: Any) -> Artefact:
    """A probe of the model and its tokenizer."""
    return make_artefact(
        "p", TransformersBackend(model, tiny_tokenizer(), "tiny").identity, template="chat"
    )


def labels(reading: Reading) -> list[str]:
    return [verdict.label for row in reading.verdicts() for verdict in row.values()]


def test_every_pass_inside_the_context_is_read(model: Any, probe: Artefact) -> None:
    with attach(model, probe) as reading:
        model(IDS)
        first = reading.verdicts()
        model(IDS[:, :4].expand(2, -1))
        second = reading.verdicts()

    assert [list(row) for row in first] == [["p"]]
    assert [list(row) for row in second] == [["p"]] * 2
    assert first[0] != second[0]
    assert reading.verdicts() == second


def test_after_the_context_nothing_is_read_and_no_hook_is_left(model: Any, probe: Artefact) -> None:
    before = hooks_of(model)
    with attach(model, probe) as reading:
        model(IDS)
        assert hooks_of(model) > before
    wanted = reading.verdicts()
    model(IDS[:, :2])

    assert reading.verdicts() == wanted
    assert hooks_of(model) == before


def test_no_hook_is_left_after_an_exception_inside(model: Any, probe: Artefact) -> None:
    with pytest.raises(ValueError, match="body"), attach(model, probe):
        raise ValueError("body")

    assert hooks_of(model) == 0


def test_a_probe_is_an_artefact_or_its_folder_or_what_has_one(
    model: Any, probe: Artefact, tmp_path: Path
) -> None:
    probe.save(tmp_path / "p")
    found = []
    for one in (probe, str(tmp_path / "p"), tmp_path / "p", SimpleNamespace(artefact=probe)):
        for several in (one, [one], (one,)):
            with attach(model, several) as reading:
                model(IDS)
            found.append(reading.verdicts())

    assert all(verdicts == found[0] for verdicts in found)
    assert list(found[0][0]) == ["p"]


def test_what_is_no_model_or_no_tokenizer_is_named(model: Any, probe: Artefact) -> None:
    """They ended in an AttributeError of some method that a list does not have."""
    with pytest.raises(ConfigError, match="Got a str where a loaded model of transformers"):
        attach("tiny", probe).__enter__()
    with pytest.raises(
        ConfigError, match=r"Got a list where the tokenizer .* attach\(model, probes"
    ):
        attach(model, tiny_tokenizer(), [probe]).__enter__()


def test_a_folder_that_is_not_there_is_an_error(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="not there"), attach(model, tmp_path / "p"):
        pass
    assert hooks_of(model) == 0


def test_a_probe_of_another_model_is_refused_and_leaves_no_hook(
    probe: Artefact,
) -> None:
    other = tiny_model(seed=1)
    with pytest.raises(MismatchError, match="It wants weights"), attach(other, probe):
        pass
    assert hooks_of(other) == 0


def test_a_probe_of_another_architecture_is_refused(probe: Artefact) -> None:
    with pytest.raises(MismatchError, match=r"4 layers, .* 3"), attach(tiny_model("gpt2"), probe):
        pass


def test_a_tokenizer_is_compared_if_it_is_given_and_only_then(model: Any, probe: Artefact) -> None:
    """Without one, every probe that had been trained with a tokenizer was refused."""
    other = tiny_tokenizer()
    other.chat_template += "!"
    with attach(model, probe, tiny_tokenizer()), attach(model, probe):
        pass
    with pytest.raises(MismatchError, match="chat template"), attach(model, probe, other):
        pass


def test_a_mismatch_can_be_allowed_with_a_warning(probe: Artefact) -> None:
    other = TransformersBackend(tiny_model(seed=1), tiny_tokenizer(), "tiny")
    with (
        pytest.warns(UserWarning, match="Its labels may be wrong"),
        watch(other, [probe], allow_mismatch=True) as reading,
    ):
        other.model(IDS)
    assert len(labels(reading)) == 1


def test_attach_takes_the_option_that_its_error_names(probe: Artefact) -> None:
    """It said "allow the mismatch (allow_mismatch)", and had no such option."""
    other = tiny_model(seed=1)
    with (
        pytest.warns(UserWarning, match="Its labels may be wrong"),
        attach(other, probe, allow_mismatch=True) as reading,
    ):
        other(IDS)
    assert len(labels(reading)) == 1


def test_two_probes_of_one_name_are_refused(model: Any, probe: Artefact) -> None:
    with pytest.raises(ConfigError, match="Probe names must differ; got p, p"):
        attach(model, [probe, probe]).__enter__()
    assert hooks_of(model) == 0


def test_verdicts_come_in_the_order_of_the_probes(model: Any) -> None:
    identity = TransformersBackend(model).identity
    kinds = {"z": "gate", "b": "pooling", "k": "gate", "a": "mha"}
    probes = [make_artefact(name, identity, kind) for name, kind in kinds.items()]
    with attach(model, probes) as reading:
        model(IDS)

    assert list(reading.verdicts()[0]) == list(kinds)
    assert list(reading.prompt_verdicts()[0]) == list(kinds)


def test_attaching_twice_reads_twice(model: Any, probe: Artefact) -> None:
    with attach(model, probe) as outer, attach(model, probe) as inner:
        model(IDS)

    assert outer.verdicts() == inner.verdicts()


def test_a_cut_also_counts_for_a_pass_without_a_cache(model: Any, probe: Artefact) -> None:
    """Such a pass was forgotten by the cut: its verdicts stayed."""
    with attach(model, probe) as reading:
        reading.cut()
        model(IDS, use_cache=False)
        prompt = reading.verdicts()
        reading.cut()
        assert reading.verdicts() == []
        assert reading.prompt_verdicts() == prompt


def test_a_model_that_has_not_run_has_no_verdicts(model: Any, probe: Artefact) -> None:
    """An attach whose passes were never seen gave empty lists, without an error."""
    with attach(model, probe) as reading:
        for ask in (reading.verdicts, reading.prompt_verdicts, reading.probabilities):
            with pytest.raises(StateError, match="seen no pass of the model"):
                ask()


@pytest.fixture(params=["wrapped", "in place", "its forward", "a block"])
def compiled(request: pytest.FixtureRequest, model: Any) -> Any:
    """A model that was compiled, and has run, before anything is attached."""
    import torch._dynamo

    torch._dynamo.reset()
    how = request.param
    run = torch.compile(model, backend="eager") if how == "wrapped" else model
    if how == "in place":
        model.compile(backend="eager")
    elif how == "its forward":
        model.forward = torch.compile(model.forward, backend="eager")
    elif how == "a block":
        model.model.layers[1].compile(backend="eager")
    with torch.no_grad():
        run(IDS)
    return run


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("attached_to", ["what runs", "what was compiled"])
@torch.no_grad()
def test_a_model_that_was_compiled_before_is_read(
    compiled: Any, model: Any, probe: Artefact, attached_to: str
) -> None:
    """Compiled passes left the hooks out: `verdicts() == []`, without an error."""
    with attach(compiled if attached_to == "what runs" else model, probe) as reading:
        compiled(IDS)
        found = reading.verdicts()
        compiled(IDS[:, :4])
        assert reading.verdicts() != found
    fresh = tiny_model()
    with attach(fresh, probe) as reading:
        fresh(IDS)
        (want,) = reading.verdicts()
    assert found[0]["p"].probs == pytest.approx(want["p"].probs, abs=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@torch.no_grad()
def test_a_model_that_is_compiled_while_it_is_read_stays_read(model: Any, probe: Artefact) -> None:
    """What was compiled of one model was taken for another, without its hooks."""
    other = tiny_model(seed=1)
    torch.compile(other, backend="eager")(IDS)
    with attach(model, probe) as reading:
        model(IDS)
        want = reading.verdicts()
        run = torch.compile(model, backend="eager")
        run(IDS[:, :3])
        run(IDS)
        assert reading.verdicts() == want


@pytest.mark.parametrize("rows", [1, 2])
def test_without_a_cache_the_prompts_verdicts_are_refused_rather_than_those_of_the_answer(
    model: Any, probe: Artefact, rows: int
) -> None:
    """They were those of prompt and answer together, 0.2 away from the prompt's."""
    ids = IDS.repeat(rows, 1)
    how: dict[str, Any] = {
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": 3,
        "do_sample": False,
    }
    with attach(model, probe) as reading:
        model.generate(ids, use_cache=False, **how)
        whole = reading.verdicts()
        with pytest.raises(StateError, match="where it ends is not known"):
            reading.prompt_verdicts()
        answer = model.generate(ids, **how)
        prompt = reading.prompt_verdicts()
        model(answer[:, :-1], use_cache=False)
        every = reading.verdicts()
        model(IDS, use_cache=False)
        alone = reading.prompt_verdicts()
    assert [v["p"].probs for v in whole] == [pytest.approx(v["p"].probs, abs=1e-5) for v in every]
    assert prompt[0]["p"].probs == pytest.approx(alone[0]["p"].probs, abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", range(1, 8))
def test_a_prompt_that_generate_runs_in_chunks_has_its_verdicts(
    model: Any, probe: Artefact, size: int
) -> None:
    """They were refused, and with one token behind the first chunk silently that chunk's."""
    how: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "prefill_chunk_size": size}
    with attach(model, probe) as reading:
        model.generate(IDS, attention_mask=torch.ones_like(IDS), **how)
        found, every = reading.prompt_verdicts()[0], reading.verdicts()[0]
        model(IDS)
        alone = reading.verdicts()[0]
    assert found["p"].probs == pytest.approx(alone["p"].probs, abs=1e-5)
    assert found["p"].probs != pytest.approx(every["p"].probs, abs=1e-3)
    assert "_prefill" not in vars(model)


@torch.no_grad()
def test_a_prompt_in_passes_of_the_callers_own_has_no_verdicts(model: Any, probe: Artefact) -> None:
    """They were those of its first chunk, 0.5 away."""
    backend = TransformersBackend(model)
    cache = backend.new_cache()
    with attach(model, probe) as reading:
        for part in (IDS[:, :2], IDS[:, 2:]):
            model(part, **{backend.cache_word: cache})
        with pytest.raises(StateError, match="where it ends is not known"):
            reading.prompt_verdicts()
        assert len(reading.verdicts()) == 1


@torch.no_grad()
def test_a_copy_of_an_attached_model_runs_its_own_prefill(model: Any, probe: Artefact) -> None:
    how: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    with attach(model, probe):
        twin = copy.deepcopy(model)
        wanted = model.generate(IDS, **how).tolist()
    twin.get_output_embeddings().weight.neg_()
    assert twin.generate(IDS, **how).tolist() != wanted
    assert model.generate(IDS, **how).tolist() == wanted


@torch.no_grad()
def test_a_second_turn_leaves_the_prompts_verdicts_as_they_were(
    model: Any, probe: Artefact
) -> None:
    backend = TransformersBackend(model)
    cache = backend.new_cache()
    with attach(model, probe) as reading:
        for part in (IDS[:, :4], IDS[:, 4:5], IDS[:, 5:]):
            model(part, **{backend.cache_word: cache})
        found = reading.prompt_verdicts()
        model(IDS[:, :4])
        assert found[0]["p"].probs == pytest.approx(reading.verdicts()[0]["p"].probs, abs=1e-5)


@torch.no_grad()
def test_a_pass_may_return_a_tuple(model: Any, probe: Artefact) -> None:
    backend = TransformersBackend(model)
    cache = backend.new_cache()
    with attach(model, probe) as reading:
        for part in (IDS[:, :5], IDS[:, 5:]):
            backend.decoder(part, **{backend.cache_word: cache}, return_dict=False)
        pieces = reading.probabilities()["p"]
        model(IDS)
        assert distance(pieces, reading.probabilities()["p"]) < 1e-5


@torch.no_grad()
def test_other_passes_are_ignored_once_the_reading_stays_with_its_cache(
    model: Any, probe: Artefact
) -> None:
    backend = TransformersBackend(model)
    mine, other = backend.new_cache(), backend.new_cache()
    model(IDS[:, :3], **{backend.cache_word: other})
    with attach(model, probe) as reading:
        model(IDS[:, :5], **{backend.cache_word: mine})
        reading.stay()
        before = reading.verdicts()
        model(IDS, use_cache=False)
        model(IDS[:, 3:], **{backend.cache_word: other})
        other.reorder_cache(torch.tensor([0]))
        assert reading.verdicts() == before
        model(IDS[:, 5:], **{backend.cache_word: mine})
        together = reading.probabilities()["p"]
        del mine
        model(IDS[:, :4], use_cache=False)  # was read once there was no such cache any more
        assert torch.equal(reading.probabilities()["p"], together)
    with attach(model, probe) as reading:
        model(IDS)
        assert distance(together, reading.probabilities()["p"]) < 1e-5


def test_the_memory_of_taps_is_told(model: Any) -> None:
    probe = make_artefact("p", TransformersBackend(model).identity)
    with attach(model, probe) as reading:
        (group,) = reading.groups
    tap = probe.network.tap()

    one_layer = tap.per_layer[0].numel() + tap.shared.numel()  # whose columns lie side by side
    assert group.weight_bytes == 4 * (tap.per_layer.numel() + tap.shared.numel() + one_layer)


def test_a_fake_is_read_like_any_other() -> None:
    backend = FakeBackend()
    with watch(backend, [make_artefact("p", backend.identity)]) as reading:
        backend.forward(torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.bool))
    assert len(labels(reading)) == 1


@torch.no_grad()
def test_rows_that_beam_search_moves_take_the_prompts_verdicts_along(
    model: Any, probe: Artefact
) -> None:
    backend = TransformersBackend(model)
    cache, ids = backend.new_cache(), torch.cat([IDS, IDS.flip(1)])
    with attach(model, probe) as reading:
        model(ids, **{backend.cache_word: cache})
        before = [v["p"].probs["yes"] for v in reading.prompt_verdicts()]
        assert abs(before[0] - before[1]) > 1e-3
        cache.reorder_cache(torch.tensor([1, 0]))
        assert [v["p"].probs["yes"] for v in reading.prompt_verdicts()] == before[::-1]
        model(ids[:, :1], **{backend.cache_word: cache})
        after = [v["p"].probs["yes"] for v in reading.prompt_verdicts()]
    assert after == pytest.approx(before[::-1], abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("first", [1, 4])
def test_a_state_that_is_not_finite_is_told_by_its_place_in_the_whole_sequence(
    model: Any, probe: Artefact, first: int
) -> None:
    """In a later chunk or step it was told by its place in that chunk."""
    backend = TransformersBackend(model)
    cache, bad = backend.new_cache(), 5

    def spoil(_: Any, args: tuple[Any, ...], out: Any) -> Any:
        return out.masked_fill((args[0] == int(IDS[0, bad]))[..., None], float("nan"))

    assert int((IDS[0] == IDS[0, bad]).sum()) == 1
    hook = model.get_input_embeddings().register_forward_hook(spoil)
    try:
        with attach(model, probe):
            model(IDS[:, :first], **{backend.cache_word: cache})
            with pytest.raises(StateError, match=f"not finite at token {bad} of row 0"):
                model(IDS[:, first:], **{backend.cache_word: cache})
    finally:
        hook.remove()
