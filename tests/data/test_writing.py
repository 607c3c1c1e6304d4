"""Languages and scripts are told where they show, and what they mean for a probe is said."""

from __future__ import annotations

import pytest

from pillion.data import foreign_note, text_notes, writings
from pillion.data.writing import LATIN, writing_of
from pillion.examples import load_example

SENTENCES = {
    "Wie kann ich mein Geld zurückbekommen?": "German",
    "Du bist ein Idiot": "German",
    "¿Dónde está mi paquete?": "Spanish",
    "Je veux annuler ma commande": "French",
    "Onde está o meu pacote? Não recebi": "Portuguese",
    "Dove è il mio pacco?": "Italian",
    "Waar is mijn pakket?": "Dutch",
    "Gdzie jest moja paczka?": "Polish",
    "Kargom nerede? Bu çok kötü bir hizmet": "Turkish",
    "Var är mitt paket?": "Swedish",
    "Dimana paket saya? Ini tidak bisa": "Indonesian",
    "Where is my parcel?": "English",
    "I don’t know what this is.": "English",
    "Где моя посылка?": "Cyrillic",
    "我的包裹在哪里": "Han",
    "ありがとうございます": "Kana",
    "내 소포는 어디에 있나요": "Hangul",
    "أين طردي؟": "Arabic",
    "thanks!": LATIN,
    "ok": LATIN,
    "42 !?": None,
    "": None,
}
ENGLISH = ["Where is my parcel? It is late.", "How do I change the address?", "thanks!"] * 40
GERMAN = ["Wo ist mein Paket? Es ist spät.", "Wie kann ich die Adresse ändern?", "danke!"] * 40


@pytest.mark.parametrize(("text", "writing"), SENTENCES.items())
def test_a_sentence_tells_its_writing(text: str, writing: str | None) -> None:
    assert writing_of(text) == writing


@pytest.mark.parametrize("name", ["safety", "intent", "sentiment"])
def test_english_texts_of_people_are_taken_for_no_other_language(name: str) -> None:
    texts = [str(text) for text in load_example(name, "train").texts]
    shares = writings(texts)
    assert shares["English"] > 0.9
    assert set(shares) <= {"English", LATIN}


def test_shares_are_of_texts_with_letters() -> None:
    assert writings(["Where is my parcel?", "Где она?", "...", ""]) == {
        "English": 0.5,
        "Cyrillic": 0.5,
    }
    assert writings([]) == {}


def test_texts_in_a_language_that_the_probe_has_not_seen_are_said_with_their_share() -> None:
    """A probe of English texts found 8 % of toxic German ones where it found 80 %, in silence."""
    note = foreign_note([*ENGLISH, *GERMAN], writings(ENGLISH), "safety")
    assert note is not None
    assert note.startswith("33% of the texts look German, which probe 'safety' was hardly trained")


@pytest.mark.parametrize(
    ("texts", "learnt"),
    [
        (ENGLISH, writings(ENGLISH)),
        ([*ENGLISH, GERMAN[0]], writings(ENGLISH)),  # one in a hundred
        (GERMAN, writings([*ENGLISH, *GERMAN])),
        (["danke!", "42"], writings(ENGLISH)),  # nothing is told of them
        (GERMAN, {}),  # a card from before
        (GERMAN, {LATIN: 1.0}),  # Latin texts whose language is unknown
    ],
)
def test_what_was_learnt_or_cannot_be_told_is_not_said(
    texts: list[str], learnt: dict[str, float]
) -> None:
    assert foreign_note(texts, learnt, "safety") is None


def test_another_script_is_said_whatever_language_was_learnt() -> None:
    note = foreign_note(["Где моя посылка?"], {LATIN: 1.0}, "safety")
    assert note is not None and "100% of the texts look Cyrillic script" in note


# --- what training says of its texts


def notes(texts: list[str]) -> list[str]:
    return text_notes(texts, writings(texts))


def varied(count: int, start: int = 0) -> list[str]:
    """Texts of words of their own."""
    return ["".join(chr(97 + int(d)) for d in str(n)) + " qzx" for n in range(start, start + count)]


def test_usual_texts_are_said_nothing_of() -> None:
    assert notes(varied(200)) == []


def test_few_rows_are_said() -> None:
    (note,) = notes(varied(99))
    assert note.startswith("Only 99 rows")


def test_texts_that_differ_in_digits_case_and_signs_are_counted() -> None:
    (note,) = notes([*varied(200), *[f"Ticket {n}: LATE!" for n in range(20)]])
    assert note.startswith("19 of 220 texts have the words of an earlier one")


def test_texts_without_words_are_not_all_alike() -> None:
    assert notes([*varied(200), *map(str, range(50))]) == []


def test_a_text_far_longer_than_most_is_said_with_its_length() -> None:
    (note,) = notes([*varied(200), "xyz " * 500])
    assert note.startswith("1 text is more than 20 times as long") and "2,000" in note


def test_one_language_alone_is_said_and_two_are_not() -> None:
    (alike, alone) = notes(ENGLISH)
    assert "words of an earlier one" in alike
    assert alone.startswith("Nearly all texts are in English")
    assert len(notes([*ENGLISH, *GERMAN])) == 1
