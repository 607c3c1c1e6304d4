"""A language model with probes: scoring texts, streams of text, and what happens at their edges."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from pillion.backends import Backend
from pillion.backends.fake import END, START, FakeBackend
from pillion.backends.transformers import TransformersBackend
from pillion.errors import ConfigError, DataError, MismatchError
from pillion.probe import Artefact
from pillion.runtime import LanguageModel, Sampling, language_model, pad_batch
from pillion.runtime.decoding import Detokenizer
from tiny_models import distance, hooks_of, make_artefact, probs_of, tiny_backend

TEXTS = ["A short one.", "b", "A much longer one, of many more words than the others.", "Hm? " * 9]


def make(kind: str) -> LanguageModel:
    if kind == "fake":
        return LanguageModel(FakeBackend())
    return LanguageModel(tiny_backend())


@pytest.fixture(params=["fake", "llama"])
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    return make(request.param)


def probe_of(lm: LanguageModel, name: str = "p", **facts: Any) -> Artefact:
    return make_artefact(name, lm.backend.identity, **facts)


def watchers(backend: Backend) -> int:
    """Who is still attached."""
    if isinstance(backend, FakeBackend):
        return len(backend._passes.watched)
    assert isinstance(backend, TransformersBackend)
    return hooks_of(backend.model)


# --- scoring


@pytest.mark.parametrize("template", ["raw", "chat"])
def test_scores_come_in_the_order_of_the_texts_and_equal_single_ones(
    lm: LanguageModel, template: Any
) -> None:
    probe = probe_of(lm, task="multiclass")
    together = lm.score(TEXTS, [probe], template)
    backwards = lm.score(TEXTS[::-1], [probe], template)[::-1]

    assert len({verdict["p"].probs["a"] for verdict in together}) == len(TEXTS)
    for text, one, two in zip(TEXTS, together, backwards, strict=True):
        alone = probs_of(lm.score([text], [probe], template)[0]["p"], probe)
        assert distance(probs_of(one["p"], probe), alone) < 1e-5
        assert distance(probs_of(two["p"], probe), alone) < 1e-5


def test_texts_of_several_batches_are_scored_like_single_ones(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe, seen = probe_of(lm), list[tuple[int, int]]()
    wanted = lm.score(TEXTS, [probe])
    monkeypatch.setattr(language_model, "SCORING_TOKENS", 40)
    got = lm.score(TEXTS, [probe], progress=lambda done, total: seen.append((done, total)))

    assert len(seen) > 1
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {sum(map(len, TEXTS))}
    assert seen[-1][0] == seen[-1][1]
    for one, two in zip(got, wanted, strict=True):
        assert distance(probs_of(one["p"], probe), probs_of(two["p"], probe)) < 1e-5


def test_texts_are_wrapped_as_the_probes_were_trained_or_as_is_said(lm: LanguageModel) -> None:
    raw, chat = probe_of(lm, "raw", template="raw"), probe_of(lm, "chat", template="chat")

    assert lm.score(TEXTS, [raw]) == lm.score(TEXTS, [raw], "raw")
    assert lm.score(TEXTS, [chat]) == lm.score(TEXTS, [chat], "chat")
    assert lm.score(TEXTS, [raw], "raw") != lm.score(TEXTS, [raw], "chat")
    with pytest.raises(ConfigError, match=r"different ways \(raw: raw; chat: chat\)"):
        lm.score(TEXTS, [raw, chat])
    assert [set(one) for one in lm.score(TEXTS[:1], [raw, chat], "raw")] == [{"raw", "chat"}]


def test_an_empty_text_is_an_error_that_names_its_row(lm: LanguageModel) -> None:
    with pytest.raises(DataError, match="Row 2: the text is empty"):
        lm.score(["a", " "], [probe_of(lm)])
    assert watchers(lm.backend) == 0


def test_no_text_is_no_verdict_and_no_probe_is_an_error(lm: LanguageModel) -> None:
    assert lm.score([], [probe_of(lm)]) == []
    with pytest.raises(ConfigError, match="Got no probe"):
        lm.score(["a"], [])


def test_a_text_that_is_too_long_is_an_error_or_is_cut() -> None:
    lm = LanguageModel(FakeBackend(context_tokens=20))
    probe, text = probe_of(lm), "0123456789" * 3

    with pytest.raises(DataError, match="Row 1: the text has 30 tokens"):
        lm.score([text], [probe])
    assert lm.score([text], [probe], on_too_long="truncate-tail") == lm.score([text[:20]], [probe])


def test_a_probe_of_another_model_is_refused_or_warned_of(lm: LanguageModel) -> None:
    probe = probe_of(LanguageModel(FakeBackend(seed=7)))
    lm = LanguageModel(FakeBackend())
    with pytest.raises(MismatchError, match="weights"):
        lm.score(["a"], [probe])
    with pytest.raises(MismatchError, match="weights"):
        lm.stream("a", [probe])
    with pytest.warns(UserWarning, match="Its labels may be wrong"):
        lm.score(["a"], [probe], allow_mismatch=True)
    with pytest.warns(UserWarning, match="Its labels may be wrong"):
        lm.stream("a", [probe], allow_mismatch=True).close()


def test_a_folder_is_a_probe(lm: LanguageModel, tmp_path: Any) -> None:
    probe = probe_of(lm)
    probe.save(tmp_path / "p")

    assert lm.score(TEXTS, [tmp_path / "p"]) == lm.score(TEXTS, [probe])


def test_load_takes_a_model_by_name() -> None:
    assert LanguageModel.load("fake").backend.identity.name == "fake-0"


# --- streams


def test_a_stream_says_the_same_as_generate_with_probes_and_without(lm: LanguageModel) -> None:
    bare = lm.generate("Hello!", max_tokens=9)
    stream = lm.stream("Hello!", [probe_of(lm)], max_tokens=9)
    events = list(stream)

    assert (bare.prompt, bare.response) == ({}, {})
    assert stream.result is not None
    assert stream.result.token_ids == bare.token_ids == tuple(e.token_id for e in events)
    assert stream.result.text == bare.text == "".join(e.text for e in events)
    assert list(stream.result.prompt) == list(stream.result.response) == ["p"]


def test_the_prompts_verdict_is_there_before_the_first_token(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    run = lm.backend.forward
    monkeypatch.setattr(lm.backend, "forward", lambda *a, **k: passes.append(1) or run(*a, **k))
    stream = lm.stream("Hello!", [probe_of(lm)], max_tokens=3)

    assert list(stream.prompt) == ["p"]
    assert len(passes) == 1
    assert len(list(stream)) == 3
    assert len(passes) == 3  # the last token is sampled, never run


def test_the_result_is_there_once_the_stream_is_at_its_end(lm: LanguageModel) -> None:
    stream = lm.stream("Hello!", max_tokens=2)
    next(stream)
    assert stream.result is None
    next(stream)
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(stream)

    assert stream.result is not None
    assert stream.result.finish_reason == "length"
    assert 0 < stream.result.seconds["first_token"] <= stream.result.seconds["total"]


def test_an_answer_of_one_token_has_no_response_verdict(lm: LanguageModel) -> None:
    result = lm.generate("Hello!", [probe_of(lm)], max_tokens=1)

    assert len(result.token_ids) == 1
    assert list(result.prompt) == ["p"]
    assert result.response == {}


def test_an_answer_that_ends_at_once_is_empty(lm: LanguageModel) -> None:
    (first,) = lm.generate("Hello!", max_tokens=1).token_ids
    lm.backend.end_ids = frozenset([first])
    result = lm.generate("Hello!", [probe_of(lm)], max_tokens=5)

    assert (result.text, result.token_ids, result.finish_reason) == ("", (), "stop")
    assert list(result.prompt) == ["p"]
    assert result.response == {}


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_closing_a_stream_early_detaches_the_probes(lm: LanguageModel, steps: int) -> None:
    stream = lm.stream("Hello!", [probe_of(lm)], max_tokens=9)
    assert watchers(lm.backend) > 0
    for _ in range(steps):
        next(stream)
    stream.close()

    assert watchers(lm.backend) == 0
    assert list(stream) == []
    assert stream.result is None


def test_a_finished_or_forgotten_stream_leaves_nothing_attached(lm: LanguageModel) -> None:
    list(lm.stream("Hello!", [probe_of(lm)], max_tokens=3))
    assert watchers(lm.backend) == 0
    stream = lm.stream("Hello!", [probe_of(lm)], max_tokens=3)
    del stream
    gc.collect()
    assert watchers(lm.backend) == 0


def test_a_pass_that_fails_leaves_nothing_attached(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, passes = lm.backend.forward, []

    def fail_third(*args: Any, **keywords: Any) -> Any:
        passes.append(1)
        if len(passes) == 3:
            raise RuntimeError("out of memory")
        return run(*args, **keywords)

    monkeypatch.setattr(lm.backend, "forward", fail_third)
    with pytest.raises(RuntimeError, match="out of memory"):
        lm.generate("Hello!", [probe_of(lm)], max_tokens=9)
    assert watchers(lm.backend) == 0


def test_the_same_seed_answers_the_same_and_another_seed_otherwise(lm: LanguageModel) -> None:
    answers = [
        lm.generate("Hello!", max_tokens=12, sampling=Sampling(temperature=3.0, seed=seed))
        for seed in (1, 1, 2)
    ]

    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].token_ids != answers[2].token_ids


def test_probes_do_not_change_what_is_drawn(lm: LanguageModel) -> None:
    how = Sampling(temperature=3.0, top_p=0.9, seed=5)
    bare = lm.generate("Hello!", max_tokens=9, sampling=how)

    assert lm.generate("Hello!", [probe_of(lm)], 9, how).token_ids == bare.token_ids


@pytest.mark.parametrize("max_tokens", [0, -1])
def test_an_answer_of_no_token_is_refused(lm: LanguageModel, max_tokens: int) -> None:
    """It ended in a RuntimeError of the generator."""
    with pytest.raises(ConfigError, match=rf"max_tokens is {max_tokens}; it must be 1 or more"):
        lm.stream("Hello!", max_tokens=max_tokens)


def test_a_prompt_must_leave_room_for_the_answer() -> None:
    lm = LanguageModel(FakeBackend(context_tokens=20))

    assert len(lm.generate("0123456789", max_tokens=8, template="chat").token_ids) <= 8
    with pytest.raises(DataError, match="11 beside the answer; shorten it, or ask for"):
        lm.stream("0123456789", max_tokens=9, template="chat")
    with pytest.raises(DataError, match=r"^the text is empty"):
        lm.stream(" ")


# --- text of a growing list of tokens


def pieces(tokens: Sequence[int], backend: Backend | None = None) -> list[str]:
    text = Detokenizer(backend or FakeBackend())
    return [text.add(token, last=i == len(tokens) - 1) for i, token in enumerate(tokens)]


@pytest.mark.parametrize(
    "text", ["plain words", "é", "née", "aé€😀b", "😀😀", "日本語です", "ß" * 5, "e\u0301x"]
)
def test_a_character_comes_whole_or_not_at_all(text: str) -> None:
    """The first character of an answer was lost if it was of several bytes."""
    got = pieces(list(text.encode()))

    assert "".join(got) == text
    assert not any("\ufffd" in piece for piece in got)
    assert [p for p in got if p] == list(text)


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    assert pieces(list("a€".encode())[:-1]) == ["a", "", "\ufffd"]


def test_bytes_that_are_no_text_do_not_hold_up_what_follows() -> None:
    got = pieces([97, 0xFF, 0xFF, 98, 0xC3, 99])

    assert "".join(got) == FakeBackend().decode([97, 0xFF, 0xFF, 98, 0xC3, 99])
    assert got == ["a", "", "", "\ufffd\ufffdb", "", "\ufffdc"]


def test_special_tokens_have_no_text() -> None:
    assert pieces([START, 97, START, 98, END]) == ["", "a", "", "b", ""]


@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_any_bytes_add_up_to_the_text(seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    tokens = torch.randint(258, (30,), generator=noise).tolist()

    assert "".join(pieces(tokens)) == FakeBackend().decode(tokens)


class Words(FakeBackend):
    """Decodes like many tokenizers: the space in front of the first token is dropped."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(f" word{token}" for token in token_ids)[1:]


class Bytes(FakeBackend):
    """Decodes like byte fallback: bytes in a row are one text, or each of them is none."""

    def decode(self, token_ids: Sequence[int]) -> str:
        try:
            return bytes(token_ids).decode()
        except UnicodeDecodeError:
            return "\ufffd" * len(token_ids)


def test_spaces_between_words_are_kept() -> None:
    assert pieces([1, 2, 3], Words()) == ["word1", " word2", " word3"]


def test_neighbouring_characters_of_byte_tokens_come_whole() -> None:
    """Half of the character before stood in front of the next one and spoilt it."""
    assert [p for p in pieces(list("€é日".encode()), Bytes()) if p] == list("€é日")


# --- batches


def test_a_batch_is_padded_on_the_left() -> None:
    ids, mask = pad_batch([[5, 6, 7], [8]])

    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[True] * 3, [False, False, True]]
