"""What the program sees for itself and says once: base models, other models, other languages."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from program import Refused, Run, two_classes, write_rows

import pillion_bench.cli  # noqa: F401  # `pillion bench` asks for its verbs when it is run
from pillion import LanguageModel, Probe
from pillion.backends.fake import FakeBackend
from pillion.cli.app import hint
from pillion.errors import BadRows, MismatchError
from pillion.probe import Artefact
from tiny_models import make_artefact, tiny_model, tiny_tokenizer

FAKE = ("--model", "fake")
CUT = ("--on-too-long", "truncate-tail")
ENGLISH = ("Where is my parcel number {}?", "I am happy with it, {} times", "The {} is broken.")
GERMAN = ("Wo ist mein Paket Nummer {}?", "Ich bin nicht zufrieden mit {}")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model without a chat template."""
    folder = tmp_path_factory.mktemp("models") / "base"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer(template=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe that has learnt from English texts alone."""
    folder = tmp_path_factory.mktemp("english")
    texts = [text.format(n) for n in range(20) for text in ENGLISH]
    Probe(model=LanguageModel(FakeBackend())).fit(texts, ["a", "b", "b"] * 20).save(folder / "p")
    return folder / "p"


def test_a_base_model_takes_texts_raw_and_says_so_once(
    run: Run, tmp_path: Path, base: Path, data: Path
) -> None:
    ran = run("train", "--data", data, "--model", base, "--out", tmp_path / "p")
    assert ran.code == 0, ran.err
    assert ran.err.count("has no chat template (a base model?)") == 1
    card = Artefact.load(tmp_path / "p").card
    assert (card.template, card.scope) == ("raw", "all")
    for verb in (["layers"], ["extract", "--out", tmp_path / "states"]):
        ran = run(*verb, "--data", data, "--model", base, "--json")
        assert ran.code == 0 and "has no chat template" in ran.err, ran.err


def test_a_chat_that_is_asked_for_is_refused_by_a_base_model(
    refused: Refused, tmp_path: Path, base: Path, data: Path
) -> None:
    words = ("--model", base, "--template", "chat", "--out", tmp_path / "p")
    assert "has no chat template; give plain texts" in refused("train", "--data", data, *words)


def test_python_warns_of_a_base_model(base: Path) -> None:
    model = LanguageModel.load(str(base))
    texts = [row["text"] for row in two_classes(20)]
    with pytest.warns(UserWarning, match="no chat template"):
        probe = Probe(model=model).fit(texts, ["a", "b"] * 10)
    assert probe.artefact.card.template == "raw"
    with pytest.warns(UserWarning, match="no chat template"):
        assert model.generate("hello", max_tokens=1).token_ids
    assert model.generate("hello", [probe], max_tokens=1, template="raw").prompt


def test_generate_wraps_a_prompt_as_its_probe_was_trained(run: Run, tmp_path: Path) -> None:
    identity = FakeBackend().identity
    make_artefact("raw", identity, template="raw", scope="all").save(tmp_path / "raw")
    make_artefact("chat", identity, template="chat", scope="all").save(tmp_path / "chat")

    def said(*words: str | Path) -> object:
        ran = run("generate", "hello", "--max-tokens", "2", "--json", *FAKE, *words)
        assert ran.code == 0, ran.err
        return ran.json["prompt"], ran.json["text"]

    for name, other in (("raw", "chat"), ("chat", "raw")):
        own = ("--probe", tmp_path / name)
        assert said(*own) == said(*own, "--template", name) != said(*own, "--template", other)
    assert said()[1] == said("--template", "chat")[1]  # type: ignore[index]


def test_a_probe_of_another_model_names_the_option_that_loads_it(
    refused: Refused, tmp_path: Path, probe: Path, base: Path
) -> None:
    make_artefact("mine", LanguageModel.load(str(base)).backend.identity).save(tmp_path / "mine")
    sentence = refused("predict", "--probe", tmp_path / "mine", "--text", "x", *FAKE)
    assert f"Load the model that it was trained on ('{base}')" in sentence
    assert sentence.endswith(f"Here: --model {base}.")
    again = refused("predict", "--probe", probe, "--text", "x", "--model", base)
    assert again.endswith("Here: --model fake-0.")


def test_doctor_says_what_a_model_is(run: Run, refused: Refused, base: Path) -> None:
    facts = run("doctor", "--model", base, "--json")
    assert facts.code == 0, facts.err
    assert facts.json["ready"] and not facts.json["chat_template"]
    assert (facts.json["model"], facts.json["layers"]) == (str(base), "0 to 4")
    ran = run("doctor", "--model", base)
    assert "A base model: texts are read as they are" in ran.out and "Ready." in ran.out
    assert "could not be loaded" in refused("doctor", "--model", base.parent / "none")


def test_texts_in_another_language_are_said_once_and_labelled_all_the_same(
    run: Run, tmp_path: Path, english: Path
) -> None:
    german = [{"text": text.format(n)} for n in range(5) for text in GERMAN]
    source = write_rows(tmp_path / "german.jsonl", german)
    ran = run("predict", "--probe", english, "--input", source, *FAKE)
    assert ran.code == 0 and len(ran.lines) == 10
    assert ran.err.count("100% of the texts look German") == 1
    quiet = run("predict", "--probe", english, "--text", "Where is my parcel?", *FAKE)
    assert quiet.code == 0 and quiet.err == ""


def test_what_training_says_of_its_rows_stands_on_the_card_and_is_shown(
    run: Run, tmp_path: Path
) -> None:
    rows = [
        {"text": text.format(n), "label": "ab"[k > 0]}
        for n in range(12)
        for k, text in enumerate(ENGLISH)
    ]
    data = write_rows(tmp_path / "few.jsonl", [*rows, {"text": "word " * 500, "label": "b"}])
    trained = run("train", "--data", data, "--out", tmp_path / "p", *FAKE, *CUT)
    assert trained.code == 0, trained.err
    card = Artefact.load(tmp_path / "p").card
    wanted = (
        "Labels with fewer than 20 training rows",
        "Only 37 rows",
        "33 of 37 texts have the words of an earlier one",
        "1 text is more than 20 times as long",
        "Nearly all texts are in English",
    )
    assert len(card.data.notes) == len(wanted)
    for note, words in zip(card.data.notes, wanted, strict=True):
        assert note.startswith(words) and trained.err.count(note) == 1
    assert card.data.writings["English"] > 0.9
    evaluated = run("evaluate", "--probe", tmp_path / "p", "--data", data, *FAKE, *CUT)
    shown = run("inspect", tmp_path / "p")
    assert all(
        f"- {note}" in evaluated.out and f"- {note}" in shown.out for note in card.data.notes
    )


def test_a_verb_that_takes_its_model_as_an_argument_is_told_no_option_for_it() -> None:
    error = MismatchError("Probe 'a' belongs to another model.")
    error.model = "tiny"
    for words in (["predict", "--probe", "a"], ["bench", "real", "--probe", "a"]):
        assert hint(error, words) == " Here: --model tiny."
    for words in (["vllm", "m", "--probe", "a"], ["sglang", "m", "--probe", "a"]):
        assert hint(error, words) == ""


def test_a_column_that_was_not_named_is_told_with_its_option(
    refused: Refused, tmp_path: Path
) -> None:
    """`Name one of them` did not say by which option."""
    rows = [{"body": row["text"], "queue": row["label"]} for row in two_classes(8)]
    data = write_rows(tmp_path / "tickets.jsonl", rows)
    words = ("train", "--data", data, "--out", tmp_path / "p", *FAKE)
    assert refused(*words).endswith("Name one of them. Here: --text-column NAME.")
    words += ("--text-column", "body")
    assert refused(*words).endswith("Name one of them. Here: --label-column NAME.")
    assert refused(*words, "--label-column", "queu").endswith("Did you mean 'queue'?")


def test_rows_that_cannot_be_used_are_told_with_the_option_that_leaves_them_out(
    refused: Refused, run: Run, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [*two_classes(20), {"text": "", "label": "fine"}])
    words = ("train", "--data", data, "--out", tmp_path / "p", *FAKE)
    assert refused(*words).endswith("Or leave such rows out: --skip-bad-rows.")
    assert run(*words, "--skip-bad-rows").code == 0
    assert hint(BadRows("x"), ["train", "--skip-bad-rows"]) == ""
    assert hint(BadRows("x"), ["bench", "accuracy"]) == ""


def test_validation_rows_that_are_learnt_from_are_said_and_stand_on_the_card(
    run: Run, tmp_path: Path, data: Path
) -> None:
    """The same file twice gave the numbers of learnt rows as those of validation, in silence."""
    words = ("train", "--data", data, "--validation", data, "--out", tmp_path / "p", *FAKE)
    said = "40 of 40 validation rows have the text of a training row"
    assert run(*words).err.count(said) == 1
    assert any(note.startswith(said) for note in Artefact.load(tmp_path / "p").card.data.notes)


def test_what_evaluate_offers_next_is_measured_as_it_was(
    run: Run, tmp_path: Path, data: Path, probe: Path
) -> None:
    """It left out what made the model run and the probe fit: `report` said other numbers, or no."""
    how = ("--dtype", "bfloat16", "--on-too-long", "truncate-tail", "--allow-mismatch")
    asked = ("evaluate", "--probe", probe, "--data", data, *FAKE)
    assert " ".join(how) in run(*asked, *how).out.splitlines()[-1]
    assert "--dtype float32 --out" in run(*asked, "--exact").out.splitlines()[-1]
    last = run(*asked, "--contexts", "shipped").out.splitlines()[-1]
    assert last.endswith("this command with --out FILE, then pillion report FILE")


def test_what_evaluate_offers_next_runs_on_tables_with_other_columns(
    run: Run, tmp_path: Path
) -> None:
    """The line that it printed left the columns out, and was refused."""
    rows = [{"the body": row["text"], "queue": row["label"]} for row in two_classes(24)]
    data = write_rows(tmp_path / "tickets.jsonl", rows)
    names = ("--text-column", "the body", "--label-column", "queue", "--skip-bad-rows")
    assert run("train", "--data", data, "--out", tmp_path / "p", *FAKE, *names).code == 0
    said = run("evaluate", "--probe", tmp_path / "p", "--data", data, *FAKE, *names).out
    words = shlex.split(said.splitlines()[-1].partition(": pillion ")[2])
    words[-1] = str(tmp_path / words[-1])
    made = run(*words)
    assert made.code == 0 and "report.html: 1 section, " in made.out
