"""`pillion.Probe`, on the shipped engine without weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pillion
from pillion.backends.fake import FakeBackend
from pillion.errors import ConfigError, DataError, Interrupted, MismatchError
from pillion.train import TrainSettings

TEXTS = [f"{word} {i}" for i in range(20) for word in ("a lovely day", "an awful mess")]
LABELS = ["fine", "poor"] * 20
NEW = ["a lovely day 77", "an awful mess 78"]


@pytest.fixture
def model() -> pillion.LanguageModel:
    return pillion.LanguageModel.load("fake")


@pytest.fixture
def probe(model: pillion.LanguageModel) -> pillion.Probe:
    return pillion.Probe(model=model, name="mood").fit(TEXTS, LABELS)


def test_the_example_of_the_readme_runs(tmp_path: Path, model: pillion.LanguageModel) -> None:
    probe = pillion.Probe("gate", model=model)
    probe.fit(TEXTS, LABELS)
    assert probe.predict(NEW) == ["fine", "poor"]
    probe.save(tmp_path / "mood")

    probe = pillion.Probe.load(tmp_path / "mood", model)
    answer = model.generate("What a day?", [probe], max_tokens=4)
    assert answer.prompt["mood"].label in {"fine", "poor"}


def test_probabilities_have_a_row_a_text_and_a_column_a_label(probe: pillion.Probe) -> None:
    probs = probe.predict_proba(NEW)
    assert probs.shape == (2, 2) and probe.labels == ("fine", "poor")
    assert probs.sum(axis=1) == pytest.approx(1)
    assert probs[0, 0] > probs[1, 0]
    assert probe.predict([]) == [] and probe.predict_proba([]).shape == (0, 2)


def test_verdicts_are_signed_with_the_probes_name(probe: pillion.Probe) -> None:
    assert {verdict.probe for verdict in probe.verdicts(NEW)} == {"mood"}


def test_a_saved_probe_says_the_same_bit_for_bit(
    tmp_path: Path, probe: pillion.Probe, model: pillion.LanguageModel
) -> None:
    probe.save(tmp_path / "saved")
    loaded = pillion.Probe.load(tmp_path / "saved", model)
    assert np.array_equal(loaded.predict_proba(NEW), probe.predict_proba(NEW))
    assert loaded.name == "saved" and loaded.artefact.card == probe.artefact.card


def test_the_command_line_reads_what_python_saved(
    tmp_path: Path, probe: pillion.Probe, capsys: pytest.CaptureFixture[str]
) -> None:
    from pillion.cli import main

    probe.save(tmp_path / "mood")
    with pytest.raises(SystemExit):
        main(["predict", "--probe", str(tmp_path / "mood"), "--text", NEW[0], "--model", "fake"])
    assert '"label": "fine"' in capsys.readouterr().out


def test_settings_reach_the_probe(model: pillion.LanguageModel) -> None:
    probe = pillion.Probe(
        "mha",
        model=model,
        template="raw",
        layers=[1, 2],
        learning_rate=0.01,
        seed=3,
        train=TrainSettings(epochs=1),
        num_heads=2,
    )
    card = probe.fit(TEXTS, LABELS).artefact.card
    assert (card.probe, card.template, card.layers, card.seed) == ("mha", "raw", (1, 2), 3)
    assert card.settings["num_heads"] == 2 and card.training["learning_rate"] == 0.01


def test_validation_rows_choose_the_epoch_where_given(model: pillion.LanguageModel) -> None:
    probe = pillion.Probe(model=model).fit(TEXTS, LABELS, (NEW, ["fine", "poor"]))
    assert probe.artefact.card.data.num_rows == len(TEXTS)
    assert probe.artefact.card.data.validation_sha256


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([0, 1] * 20, ("0", "1")),
        ([False, True] * 20, ("False", "True")),
        ([np.str_("a"), np.str_("b")] * 20, ("a", "b")),
        ([("x",), ("x", "y")] * 20, ("x", "y")),
        ([["x"], []] * 10 + [["y"], ["x", "y"]] * 10, ("x", "y")),
    ],
)
def test_labels_are_names_however_they_are_written(
    model: pillion.LanguageModel, labels: list[Any], names: tuple[str, ...]
) -> None:
    probe = pillion.Probe(model=model, train=TrainSettings(epochs=1)).fit(TEXTS, labels)
    assert probe.labels == names


def test_a_multi_label_probe_predicts_tuples(model: pillion.LanguageModel) -> None:
    labels = [("a",), ("a", "b")] * 20
    probe = pillion.Probe(model=model).fit(TEXTS, labels)
    assert all(isinstance(labels, tuple) for labels in probe.predict(NEW))


def test_input_that_cannot_be_used_is_a_sentence(
    probe: pillion.Probe, model: pillion.LanguageModel
) -> None:
    fresh = pillion.Probe(model=model)
    with pytest.raises(ConfigError, match="not trained"):
        fresh.predict(NEW)
    with pytest.raises(DataError, match="40 texts and 1 labels"):
        fresh.fit(TEXTS, ["fine"])
    with pytest.raises(DataError, match="no rows"):
        fresh.fit([], [])
    with pytest.raises(DataError, match="only 'fine'"):
        fresh.fit(NEW, ["fine", "fine"])
    with pytest.raises(DataError, match=r"empty .* row 2"):
        fresh.fit(["x", " "], ["a", "b"])
    with pytest.raises(DataError, match=r"empty .* row 2"):
        probe.predict(["x", ""])
    with pytest.raises(DataError, match="Row 1"):
        probe.predict(["x" * 600])
    with pytest.raises(ConfigError, match=r"give a list: \[text\]"):
        probe.predict("one text")
    with pytest.raises(ConfigError, match="Did you mean 'gate'"):
        pillion.Probe("gaet")
    with pytest.raises(ConfigError, match="num_head"):
        pillion.Probe("gate", num_head=2)


def test_a_probe_is_not_loaded_onto_another_model(tmp_path: Path, probe: pillion.Probe) -> None:
    probe.save(tmp_path / "mood")
    with pytest.raises(MismatchError, match="another model"):
        pillion.Probe.load(tmp_path / "mood", pillion.LanguageModel(FakeBackend(seed=1)))


def test_ctrl_c_keeps_nothing_and_says_so(
    model: pillion.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pillion.train.run.save_checkpoint", interrupt)
    probe = pillion.Probe(model=model)
    with pytest.raises(Interrupted, match="nothing was kept"):
        probe.fit(TEXTS, LABELS)
    with pytest.raises(ConfigError, match="not trained"):
        probe.predict(NEW)


def test_conversations_and_tables_of_zeros_and_ones_are_taken() -> None:
    """One-hot labels became the classes `0` and `1`."""
    talks = [[{"role": "user", "content": f"text {n}"}] for n in range(40)]
    labels = np.eye(2, dtype=int)[np.arange(40) % 2]
    model = pillion.LanguageModel.load("fake")
    probe = pillion.Probe(model=model).fit(talks, labels)
    assert probe.labels == ("label_0", "label_1")
    assert probe.predict_proba(talks[:3]).shape == (3, 2)
    assert len(probe.predict(iter(talks[:2]))) == 2
    with pytest.raises(DataError, match="table of 2 columns"):
        probe.predict(np.array([["a", "b"]]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": [99]}, "Layer 99 is not of this model, which has layers 0 to 3"),
        ({"layers": [-1]}, r"The layers are \[-1\]; give numbers from 0"),
        ({"layers": []}, r"The layers are \[\]; give numbers from 0"),
        ({"learning_rate": -1.0}, r"learning_rate is -1\.0: "),
        ({"epochs": 3}, r"of the training .* train=TrainSettings\(epochs=\.\.\.\)"),
    ],
)
def test_what_does_not_fit_is_one_sentence_before_any_state_is_read(
    model: pillion.LanguageModel, options: dict[str, Any], words: str
) -> None:
    """Layers below zero were said to be states that are not finite, or told after training."""
    with pytest.raises(ConfigError, match=words):
        pillion.Probe(**{"model": model, **options}).fit(TEXTS[:8], LABELS[:8])


UNTYPED = """
import pillion
for options in (
    {"layers": [1.5]}, {"layers": "0-2"}, {"seed": "a"}, {"template": "chatt"}, {"scope": "usr"},
    {"on_too_long": "cut"}, {"model": "embedded"},
):
    try:
        pillion.Probe(**options)
    except pillion.errors.ConfigError as error:
        print(error)
try:
    pillion.Probe.load("nowhere", "embedded")
except pillion.errors.ConfigError as error:
    print(error)
"""


def test_values_of_another_type_are_a_sentence_where_no_types_are_checked() -> None:
    """As users run it: the tests check types at every call."""
    ran = subprocess.run([sys.executable, "-c", UNTYPED], capture_output=True, text=True)
    wanted = (
        "The layers are [1.5]; give numbers from 0",
        "The layers are ['0', '-', '2']; give numbers from 0",
        "seed is 'a': ",
        "Unknown template 'chatt'; known: chat, raw. Did you mean 'chat'?",
        "Unknown scope 'usr'; known: ",
        "Unknown on too long 'cut'; known: ",
        *["Got the model's name, 'embedded', where the model is meant; give LanguageModel.load("]
        * 2,
    )
    said = ran.stdout.splitlines()
    assert len(said) == len(wanted), ran.stderr
    assert all(line.startswith(words) for line, words in zip(said, wanted, strict=True)), said


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"epochs": 0}, "epochs is 0: "), ({"epoch": 1}, "Unknown setting 'epoch'.* mean 'epochs'")],
)
def test_settings_of_the_training_are_refused_in_a_sentence(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainSettings(**settings)


def test_layers_may_be_left_to_be_chosen(model: pillion.LanguageModel) -> None:
    probe = pillion.Probe(model=model, layers="auto").fit(TEXTS, LABELS)
    assert set(probe.artefact.card.layers) <= {0, 1, 2, 3}


def test_one_probe_may_stand_where_several_may(
    model: pillion.LanguageModel, probe: pillion.Probe, tmp_path: Path
) -> None:
    probe.save(tmp_path / "mood")
    for one in (probe, probe.artefact, tmp_path / "mood", str(tmp_path / "mood")):
        assert model.score(NEW, one)[0]["mood"].label == "fine"
        assert model.generate(NEW[0], one, max_tokens=1).prompt["mood"].label == "fine"
