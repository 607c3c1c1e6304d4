"""Texts to token ids that fit: which row is wrong, and what is cut."""

from __future__ import annotations

import pytest

from pillion.backends.fake import END, START, FakeBackend
from pillion.errors import DataError
from pillion.runtime import encode_rows


def backend(context_tokens: int = 10) -> FakeBackend:
    return FakeBackend(context_tokens=context_tokens)


def test_texts_that_fit_are_encoded_in_order() -> None:
    assert encode_rows(backend(), ["ab", "c"], "raw") == [(97, 98), (99,)]
    assert encode_rows(backend(), ["ab"], "chat") == [(START, 97, 98, START)]
    assert encode_rows(backend(), [], "raw") == []


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_an_error_that_names_the_row_from_1(text: str) -> None:
    with pytest.raises(DataError, match="Row 2: the text is empty"):
        encode_rows(backend(), ["ab", text], "raw")


def test_a_text_of_the_windows_length_fits_and_one_more_token_does_not() -> None:
    assert encode_rows(backend(), ["0123456789"], "raw") == [tuple(b"0123456789")]
    with pytest.raises(DataError, match=r"Row 2: the text has 11 tokens, the model takes 10;"):
        encode_rows(backend(), ["ok", "0123456789!"], "raw")


def test_the_template_counts() -> None:
    with pytest.raises(DataError, match=r"has 12 tokens, the model takes 10"):
        encode_rows(backend(), ["0123456789"], "chat")


def test_room_for_the_answer_counts() -> None:
    with pytest.raises(DataError, match=r"the model takes 6 beside the answer"):
        encode_rows(backend(), ["0123456"], "raw", room_tokens=4)


def test_truncate_head_drops_the_beginning_and_truncate_tail_the_end() -> None:
    text = ["0123456789abc"]

    assert encode_rows(backend(), text, "raw", "truncate-head") == [tuple(b"3456789abc")]
    assert encode_rows(backend(), text, "raw", "truncate-tail") == [tuple(b"0123456789")]


@pytest.mark.parametrize(
    ("side", "kept"), [("truncate-head", b"56789abc"), ("truncate-tail", b"01234567")]
)
def test_cutting_keeps_the_template_whole(side: str, kept: bytes) -> None:
    (row,) = encode_rows(backend(), ["0123456789abc"], "chat", side)  # type: ignore[arg-type]

    assert row == (START, *kept, START)


@pytest.mark.parametrize(("side", "kept"), [("truncate-head", "ßb"), ("truncate-tail", "€")])
def test_a_character_that_the_cut_goes_through_is_dropped(side: str, kept: str) -> None:
    """It came back as a replacement character, which was never in the text."""
    (row,) = encode_rows(backend(4), ["€üßb"], "raw", side)  # type: ignore[arg-type]

    assert bytes(row).decode() == kept


@pytest.mark.parametrize("side", ["truncate-head", "truncate-tail"])
def test_a_text_that_fits_is_not_cut(side: str) -> None:
    rows = encode_rows(backend(), ["0123456789"], "raw", side)  # type: ignore[arg-type]

    assert rows == [tuple(b"0123456789")]


@pytest.mark.parametrize("window", [0, 1, 2])
def test_a_window_that_the_template_fills_is_an_error(window: int) -> None:
    with pytest.raises(DataError, match="template alone takes more"):
        encode_rows(backend(window), ["abc"], "chat", "truncate-head")


def test_the_fake_leaves_special_tokens_out_of_its_text() -> None:
    assert backend().decode([START, 104, 105, END]) == "hi"
