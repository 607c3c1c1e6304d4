"""Any decoder-only causal LM of transformers: who it is, how it encodes, what a call says."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from pillion.backends import load_backend
from pillion.backends.adapters import fingerprint
from pillion.backends.base import Step
from pillion.backends.identity import find_blocks
from pillion.backends.steps import step_of
from pillion.backends.transformers import TransformersBackend
from pillion.errors import ConfigError, StateError
from tiny_models import CONFIGS, DIM, Recorder, hooks_of, random_ids, tiny_model, tiny_tokenizer

each_config = pytest.mark.parametrize("kind", CONFIGS)


class Watching(Recorder):
    """Keeps what it is told besides states."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.ends: list[object | None] = []
        self.moves: list[tuple[object, list[int]]] = []

    def start(self, step: Step) -> None:
        super().start(step)
        self.steps.append(step)

    def end(self, cache: object | None) -> None:
        self.ends.append(cache)

    def move(self, cache: object, rows: torch.Tensor) -> None:
        self.moves.append((cache, rows.tolist()))


def watched_call(**keywords: Any) -> Watching:
    """What a watcher is told of one call of a tiny Llama."""
    backend, watcher = TransformersBackend(tiny_model()), Watching()
    with backend.watch(watcher, [0]), torch.no_grad():
        backend.model(**keywords)
    return watcher


def sequences_of(**keywords: Any) -> list[int] | None:
    """Which sequence a watcher is told that each of six tokens belongs to; None for one alone."""
    (step,) = watched_call(input_ids=torch.tensor([random_ids(6)]), **keywords).steps
    return None if step.sequences is None else step.sequences.tolist()


# --- who a model is


@each_config
def test_identity_says_layers_width_dtype_and_window(kind: str) -> None:
    backend = TransformersBackend(tiny_model(kind), tiny_tokenizer(), name="mine")
    identity = backend.identity

    assert identity.name == "mine"
    assert identity.num_layers == (4 if kind == "llama" else 3)
    assert (identity.dim, identity.dtype, identity.context_tokens) == (DIM, "float32", 640)
    assert identity.weights_sha256
    assert identity.tokenizer_sha256
    assert identity.template_sha256


def test_a_model_without_a_tokenizer_has_no_fingerprints_of_one() -> None:
    identity = TransformersBackend(tiny_model()).identity

    assert identity.name == "LlamaForCausalLM"
    assert (identity.tokenizer_sha256, identity.template_sha256) == ("", "")


@each_config
def test_the_same_weights_have_the_same_fingerprint_in_any_dtype(kind: str) -> None:
    model = tiny_model(kind)
    narrow = fingerprint(copy.deepcopy(model).to(torch.bfloat16))

    assert fingerprint(model) == fingerprint(tiny_model(kind))
    assert fingerprint(model).sha256 == narrow.sha256
    assert fingerprint(model).sha256 != fingerprint(tiny_model(kind, seed=1)).sha256


@each_config
def test_a_model_knows_the_fingerprint_of_its_copy_in_half_precision(kind: str) -> None:
    """Rounded to fp16 first, some weights lie between two of bf16: the copy's fingerprint differs,
    so that a copy in fp16 of a model in fp32 was taken for another model."""
    model = tiny_model(kind)
    half = fingerprint(copy.deepcopy(model).to(torch.float16))

    assert half.sha256 == half.float16_sha256 == fingerprint(model).float16_sha256
    assert half.sha256 != fingerprint(model).sha256


def test_one_changed_tensor_changes_the_fingerprint() -> None:
    model = tiny_model()
    before = fingerprint(model)
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight.mul_(1.01)

    assert fingerprint(model) != before


def test_another_chat_template_is_another_identity() -> None:
    tokenizer, other = tiny_tokenizer(), tiny_tokenizer()
    other.chat_template += " "
    ours, theirs = (TransformersBackend(tiny_model(), t).identity for t in (tokenizer, other))

    assert ours == replace(theirs, template_sha256=ours.template_sha256)
    assert ours.template_sha256 != theirs.template_sha256


@pytest.mark.parametrize(("ends", "wanted"), [(None, set()), (7, {7}), ([7, 9], {7, 9})])
def test_end_ids_are_those_of_the_generation_config(ends: Any, wanted: set[int]) -> None:
    model = tiny_model()
    model.generation_config.eos_token_id = ends

    assert TransformersBackend(model, tiny_tokenizer()).end_ids == wanted


def test_end_ids_are_the_tokenizers_where_the_model_says_nothing() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "<turn>"

    assert TransformersBackend(tiny_model(), tokenizer).end_ids == {95}


@each_config
def test_blocks_are_found_in_a_causal_lm_and_in_its_decoder(kind: str) -> None:
    model = tiny_model(kind)
    decoder, blocks = find_blocks(model)

    assert decoder is model.get_decoder()
    assert len(blocks) == model.config.num_hidden_layers
    assert find_blocks(decoder)[1] is blocks


def test_a_model_with_an_encoder_is_refused_by_its_class() -> None:
    """Its decoder has one list of blocks too, but does not see the prompt."""
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_heads": 2, "num_layers": 2}
    model = T5ForConditionalGeneration(T5Config(**sizes, vocab_size=16))
    with pytest.raises(ConfigError, match="T5ForConditionalGeneration has no single list of 2"):
        find_blocks(model)


def test_what_is_no_language_model_is_refused_by_its_class() -> None:
    with pytest.raises(ConfigError, match="Linear has no single list"):
        find_blocks(torch.nn.Linear(2, 2))


# --- text


def test_raw_text_is_encoded_as_it_is_and_chat_as_a_turn() -> None:
    backend = TransformersBackend(tiny_model(), tiny_tokenizer())
    raw = backend.encode("hi you", "raw")

    assert backend.decode(raw) == "hi you"
    assert backend.encode("hi you", "chat") == (95, *raw, 95)


def test_decoding_leaves_special_tokens_out() -> None:
    backend = TransformersBackend(tiny_model(), tiny_tokenizer())

    assert backend.decode(backend.encode("hi you", "chat")) == "hi you"


def test_chat_without_a_chat_template_is_an_error_that_says_what_to_do() -> None:
    backend = TransformersBackend(tiny_model(), tiny_tokenizer(template=False), name="mine")

    with pytest.raises(ConfigError, match=r"'mine' has no chat template; give plain texts"):
        backend.encode("hi", "chat")


# --- what a call says


def test_a_call_without_a_mask_is_all_tokens() -> None:
    (step,) = watched_call(input_ids=torch.tensor([random_ids(5), random_ids(5, 1)])).steps

    assert step.mask.shape == (2, 5)
    assert bool(step.mask.all())
    assert (step.past_tokens, step.sequences) == (0, None)


def test_embeddings_may_come_instead_of_ids() -> None:
    (step,) = watched_call(inputs_embeds=torch.randn(2, 5, DIM)).steps

    assert step.mask.shape == (2, 5)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_a_mask_of_four_dimensions_says_which_positions_are_padding(kind: str) -> None:
    """Padding was read as tokens where the engine had made the mask beforehand."""
    tokens = torch.tensor([[False, False, True, True], [True] * 4])
    allowed = tokens[:, None, None, :] & torch.ones(4, 4, dtype=torch.bool).tril()
    mask = allowed if kind == "bool" else torch.zeros(2, 1, 4, 4).masked_fill(~allowed, -1e9)
    (step,) = watched_call(input_ids=torch.ones(2, 4, dtype=torch.long), attention_mask=mask).steps

    assert torch.equal(step.mask, tokens)


def test_a_mask_that_does_not_cover_the_cache_is_refused() -> None:
    backend = TransformersBackend(tiny_model())
    ids, cache = torch.tensor([random_ids(4)]), backend.new_cache()
    mask = torch.ones(1, 4, dtype=torch.long)
    with backend.watch(Watching(), [0]), torch.no_grad():
        backend.model(input_ids=ids, attention_mask=mask, **{backend.cache_word: cache})
        with pytest.raises(StateError, match=r"give one of \[batch, 8\]"):
            backend.model(input_ids=ids, attention_mask=mask, **{backend.cache_word: cache})


@pytest.mark.parametrize(
    "bounds", [{}, {"cu_seq_lens_q": torch.tensor([0, 3, 4, 6]).int()}], ids=["positions", "both"]
)
def test_a_packed_batch_says_which_sequence_each_position_belongs_to(
    bounds: dict[str, torch.Tensor],
) -> None:
    places = torch.tensor([[0, 1, 2, 0, 0, 1]])
    found = sequences_of(position_ids=places, use_cache=False, **bounds)
    assert found == [0, 0, 0, 1, 2, 2]


@pytest.mark.parametrize(
    "keywords",
    [
        {"position_ids": torch.arange(6)[None]},
        {"position_ids": torch.arange(3, 9)[None]},
        {"attention_mask": torch.ones(1, 6), "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]])},
    ],
    ids=["from 0", "from 3", "with a mask"],
)
def test_one_sequence_is_not_taken_for_a_packed_batch(keywords: dict[str, Any]) -> None:
    assert sequences_of(**keywords) is None


def blocks(*lengths: int, future: bool = False) -> torch.Tensor:
    """A mask of four dimensions in which sequences of these lengths see themselves alone."""
    whole = torch.block_diag(*(torch.ones(n, n) for n in lengths)).bool()
    return (whole if future else whole.tril())[None, None]


def test_a_mask_of_four_dimensions_may_keep_packed_sequences_apart() -> None:
    """Two packed sequences were read as one: a single verdict for both."""
    mask = torch.zeros(1, 1, 6, 6).masked_fill(~blocks(3, 1, 2), -1e9)
    assert sequences_of(attention_mask=mask, use_cache=False) == [0, 0, 0, 1, 2, 2]


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(6, 6).tril().bool()[None, None],
        (torch.ones(6, 6).tril() - torch.ones(6, 6).tril(-3)).bool()[None, None],
        torch.ones(1, 1, 6, 6).bool(),
    ],
    ids=["causal", "a window of 3", "all see all"],
)
def test_a_mask_of_four_dimensions_of_one_sequence_is_not_packed(mask: torch.Tensor) -> None:
    (step,) = watched_call(input_ids=torch.tensor([random_ids(6)]), attention_mask=mask).steps

    assert step.sequences is None


PADDED = blocks(3, 3) & (torch.arange(6) != 5)[:, None] & (torch.arange(6) != 5)
CROSSING = blocks(6)
CROSSING[..., 3, :3] = False


@pytest.mark.parametrize(
    ("mask", "rows"),
    [(blocks(3, 3).expand(2, -1, -1, -1), 2), (PADDED, 1), (CROSSING, 1)],
    ids=["two packed rows", "padding", "sees others later"],
)
def test_sequences_that_cannot_be_told_apart_are_refused(mask: torch.Tensor, rows: int) -> None:
    with pytest.raises(StateError, match="several sequences in a row"):
        watched_call(input_ids=torch.ones(rows, 6, dtype=torch.long), attention_mask=mask)


def test_a_mask_that_numbers_sequences_is_refused() -> None:
    with pytest.raises(StateError, match="numbers sequences"):
        watched_call(
            input_ids=torch.ones(1, 4, dtype=torch.long),
            attention_mask=torch.tensor([[1, 1, 2, 2]]),
        )


@pytest.mark.parametrize(("rows", "use_cache"), [(1, True), (1, None), (2, False)])
def test_positions_that_begin_again_are_refused_where_the_model_lets_sequences_mix(
    rows: int, use_cache: bool | None
) -> None:
    """With a KV cache the model does not keep them apart, yet each was given a verdict."""
    with pytest.raises(StateError, match="lets them see each other"):
        watched_call(
            input_ids=torch.ones(rows, 4, dtype=torch.long),
            position_ids=torch.tensor([[0, 1, 0, 1]] * rows),
            use_cache=use_cache,
        )


@torch.no_grad()
def test_a_mask_may_be_given_by_its_place() -> None:
    """It was overlooked there: padding was read as tokens."""
    backend, watcher = TransformersBackend(tiny_model()), Watching()
    mask = torch.tensor([[0, 1, 1]])
    with backend.watch(watcher, [0]):
        backend.decoder(torch.tensor([random_ids(3)]), mask)

    assert watcher.steps[0].mask.tolist() == [[False, True, True]]


@torch.no_grad()
def test_masks_of_windows_alone_say_which_positions_are_padding() -> None:
    """A model without a layer of full attention had its padding read as tokens."""
    mask = blocks(1, 3)
    mask[..., 0, 0] = False
    ids = torch.tensor([random_ids(4)])
    said = {"input_ids": ids, "attention_mask": {"sliding_attention": mask}}
    step = step_of(tiny_model().model, said, {})

    assert step.mask.tolist() == [[False, True, True, True]]


@pytest.mark.parametrize("keywords", [{"return_dict": False}, {"use_cache": False}], ids=str)
@each_config
@torch.no_grad()
def test_the_cache_that_a_pass_fills_is_told_even_if_the_output_does_not_hold_it(
    kind: str, keywords: dict[str, bool]
) -> None:
    """GPT-2 without use_cache, and tuples, hid the cache; the next pass through it then failed."""
    backend, watcher = TransformersBackend(tiny_model(kind)), Watching()
    cache: Any = backend.new_cache()
    with backend.watch(watcher, [0]):
        backend.decoder(torch.tensor([random_ids(3)]), **{backend.cache_word: cache}, **keywords)

    assert watcher.ends == [cache]
    assert cache.get_seq_length() == 3


def test_without_a_cache_none_is_told() -> None:
    assert watched_call(input_ids=torch.tensor([random_ids(3)]), use_cache=False).ends == [None]


# --- moved rows of a cache


def filled(backend: TransformersBackend) -> Any:
    cache = backend.new_cache()
    backend.forward(torch.tensor([random_ids(3), random_ids(3, 1)]), torch.ones(2, 3).bool(), cache)
    return cache


@pytest.mark.parametrize("method", ["reorder_cache", "batch_select_indices"])
def test_a_watcher_is_told_when_rows_move_and_the_rows_do_move(method: str) -> None:
    backend, watcher = TransformersBackend(tiny_model()), Watching()
    with backend.watch(watcher, [0]):
        cache = filled(backend)
        before = cache.layers[0].keys.clone()
        getattr(cache, method)(torch.tensor([1, 1]))

    assert watcher.moves == [(cache, [1, 1])]
    assert torch.equal(cache.layers[0].keys, before[[1, 1]])


def test_after_the_context_a_cache_has_its_own_methods_again() -> None:
    backend, watcher = TransformersBackend(tiny_model()), Watching()
    with backend.watch(watcher, [0]):
        cache = filled(backend)
    cache.reorder_cache(torch.tensor([1, 0]))

    assert watcher.moves == []
    assert not {"reorder_cache", "batch_select_indices"} & vars(cache).keys()


def test_every_watcher_of_a_cache_is_told() -> None:
    """The second watcher took the place of the first, and took the wrapping along when it left."""
    backend, outer, inner = TransformersBackend(tiny_model()), Watching(), Watching()
    with backend.watch(outer, [0]):
        with backend.watch(inner, [0]):
            cache = filled(backend)
            cache.reorder_cache(torch.tensor([1, 0]))
        cache.reorder_cache(torch.tensor([0, 0]))

    assert outer.moves == [(cache, [1, 0]), (cache, [0, 0])]
    assert inner.moves == [(cache, [1, 0])]


def test_a_copy_of_a_watched_cache_moves_its_own_rows() -> None:
    """Moving the rows of a copied prompt moved those of the original instead."""
    backend, watcher = TransformersBackend(tiny_model()), Watching()
    with backend.watch(watcher, [0]):
        cache = filled(backend)
        before = cache.layers[0].keys.clone()
        twin = copy.deepcopy(cache)
        twin.reorder_cache(torch.tensor([1, 0]))

    twin.reorder_cache(torch.tensor([0, 0]))
    assert watcher.moves == []
    assert torch.equal(cache.layers[0].keys, before)
    assert torch.equal(twin.layers[0].keys, before[[1, 1]])


def test_a_watched_cache_is_freed_as_soon_as_nothing_holds_it() -> None:
    import weakref

    backend = TransformersBackend(tiny_model())
    with backend.watch(Recorder(), [0]):
        cache = filled(backend)
        last = weakref.ref(cache)
        del cache
        assert last() is None


# --- loading by name


def test_a_saved_model_is_loaded_by_its_folder(tmp_path: Any) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    backend = load_backend(str(tmp_path), device="cpu")

    assert isinstance(backend, TransformersBackend)
    assert backend.identity == replace(
        TransformersBackend(model, tiny_tokenizer()).identity, name=str(tmp_path)
    )
    assert hooks_of(backend.model) == 0
    assert not backend.model.training


def test_a_dtype_can_be_asked_for(tmp_path: Any) -> None:
    tiny_model().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)

    assert load_backend(str(tmp_path), "bfloat16", "cpu").identity.dtype == "bfloat16"


def test_progress_bars_are_as_they_were_after_loading(tmp_path: Any) -> None:
    from transformers.utils import logging

    tiny_model().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    before = logging.is_progress_bar_enabled()
    load_backend(str(tmp_path), device="cpu")

    assert logging.is_progress_bar_enabled() == before


@pytest.mark.parametrize("content", [None, "{", '{"model_type": "t5"}', '{"model_type": "what"}'])
def test_a_folder_without_a_causal_lm_is_refused_by_name(
    tmp_path: Any, content: str | None
) -> None:
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"could not be loaded .* give the folder of a causal LM"):
        load_backend(str(tmp_path), device="cpu")


def test_an_unknown_dtype_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'bfloat16'"):
        load_backend("anything", dtype="bfloat61")


def test_a_device_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="Device 'nowhere' cannot be used"):
        load_backend("anything", device="nowhere")


def test_fake_needs_no_files() -> None:
    assert load_backend("fake").identity.name == "fake-0"
