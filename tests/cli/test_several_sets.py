"""`pillion train` with several sets of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from program import LABELS, TEXTS, Refused, Run, write_rows

from pillion.probe import Artefact

FAKE = ("--model", "fake", "--epochs", "1", "--json")


def labelled(num_rows: int, start: int, **names: str) -> list[dict[str, Any]]:
    """Rows of two classes, called `fine` and `poor` unless other names are given."""
    return [
        {"text": TEXTS[i % 4].format(start + i), "label": names.get(LABELS[i % 4], LABELS[i % 4])}
        for i in range(num_rows)
    ]


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "chat.jsonl", labelled(40, 0))


@pytest.fixture
def mod(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "mod.jsonl", labelled(24, 100, poor="flagged", fine="safe"))


def test_two_sets_with_a_mapping_make_one_binary_probe(
    run: Run, tmp_path: Path, chat: Path, mod: Path
) -> None:
    words = ("--data", chat, "--data", mod, "--map", "mod.flagged=poor", "--map", "mod.safe=fine")
    ran = run("train", *words, "--weight", "mod=0.5", "--out", tmp_path / "p", *FAKE)
    assert ran.code == 0, ran.err
    card = Artefact.load(tmp_path / "p").card
    assert (card.task, card.labels, card.data.path) == (
        *("binary", ("fine", "poor")),
        "chat.jsonl + mod.jsonl",
    )
    first, second = card.data.sets
    assert (first.name, first.path, first.num_rows, first.weight) == (
        *("chat", "chat.jsonl"),
        *(40, None),
    )
    assert second.renamed == {"flagged": "poor", "safe": "fine"} and second.weight == 0.5
    assert len(second.sha256) == 64 and second.sha256 != first.sha256 != card.data.sha256
    told = run("evaluate", "--probe", tmp_path / "p", "--data", chat, "--model", "fake", "--json")
    assert "is the file that the probe was trained on" in told.err


def test_what_only_one_set_asks_is_masked_and_said(
    run: Run, tmp_path: Path, chat: Path, mod: Path
) -> None:
    words = ("--data", chat, "--data", mod, "--map", "mod.flagged=poor")
    ran = run("train", *words, "--out", tmp_path / "p", *FAKE)
    assert ran.code == 0, ran.err
    assert "the probe is multi-label, and no row was judged of 'chat' on 'safe'" in ran.err
    card = Artefact.load(tmp_path / "p").card
    assert (card.task, card.labels) == ("multilabel", ("fine", "poor", "safe"))
    assert card.data.sets[1].labels == ("poor", "safe")
    assert any("no row was judged" in note for note in card.data.notes)


def test_files_of_one_name_are_told_apart(run: Run, tmp_path: Path, refused: Refused) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        write_rows(tmp_path / place / "train.jsonl", labelled(24, 100 * (place == "b")))
    paths = [tmp_path / "a" / "train.jsonl", tmp_path / "b" / "train.jsonl"]
    out = ("--out", tmp_path / "p", *FAKE)
    message = refused("train", "--data", paths[0], "--data", paths[1], *out)
    assert "two sets called 'train'" in message and "NAME=PATH" in message
    words = ("--data", f"a={paths[0]}", "--data", f"b={paths[1]}", "--validation", f"a={paths[0]}")
    assert run("train", *words, *out).code == 0
    assert [one.name for one in Artefact.load(tmp_path / "p").card.data.sets] == ["a", "b"]


def test_a_set_need_not_have_every_label_column(run: Run, tmp_path: Path) -> None:
    both = [{"text": f"a {n}", "rude": n % 2, "long": n % 3 % 2} for n in range(24)]
    one = [{"text": f"b {n}", "flagged": n % 2} for n in range(24)]
    words = ("--data", write_rows(tmp_path / "both.jsonl", both))
    words += ("--data", write_rows(tmp_path / "one.jsonl", one), "--map", "one.flagged=rude")
    ran = run("train", *words, "--label-columns", "rude,long", "--out", tmp_path / "p", *FAKE)
    assert ran.code == 0, ran.err
    card = Artefact.load(tmp_path / "p").card
    assert card.labels == ("long", "rude")
    assert [one.labels for one in card.data.sets] == [("long", "rude"), ("rude",)]


def test_one_set_may_be_mapped_too(run: Run, tmp_path: Path, mod: Path) -> None:
    words = ("--data", mod, "--map", "mod.flagged=bad", "--validation", mod)
    assert run("train", *words, "--out", tmp_path / "p", *FAKE).code == 0
    assert Artefact.load(tmp_path / "p").card.labels == ("safe", "bad")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--map", "mood.flagged=poor"), "Unknown set 'mood'; known: chat, mod. Did you mean"),
        (("--map", "mod.flaged=poor"), "Unknown label 'flaged'; known: flagged, safe"),
        (("--map", "mod.flagged"), "write SET.LABEL=NAME"),
        (
            ("--map", "mod.flagged=poor", "--map", "mod.flagged=bad"),
            "--map gives mod.flagged two names ('poor' and 'bad')",
        ),
        ((), "Set 'chat' ('fine', 'poor') shares no label with the other sets"),
        (("--weight", "mod=half"), "write SET=SHARE"),
        (("--weight", "mood=0.5"), "Unknown set 'mood'"),
        (("--weight", "mod=0.5", "--weight", "mod=0.5"), "given twice for set 'mod'"),
        (
            ("--map", "mod.flagged=poor", "--weight", "mod=1.5"),
            "has the weight 1.5; give a share",
        ),
        (
            ("--map", "mod.flagged=poor", "--validation", "other.jsonl"),
            "is called 'other', which is no set of --data (chat, mod); write it as SET=PATH",
        ),
    ],
    ids=lambda one: " ".join(one)[:40] if isinstance(one, tuple) else "",
)
def test_what_cannot_be_used_is_said_in_a_sentence(
    refused: Refused,
    tmp_path: Path,
    chat: Path,
    mod: Path,
    words: tuple[str, ...],
    sentence: str,
) -> None:
    given = ("--data", chat, "--data", mod, *words)
    assert sentence in refused("train", *given, "--out", tmp_path / "p", *FAKE)
