"""A suite file is strict, and what is wrong with one is a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from pillion.errors import ConfigError
from pillion_bench.baselines import make_method
from pillion_bench.suite import DEFAULT, Suite, load_suite

WHOLE = """
seeds = [0, 1]
[data.mood]
train = "train.csv"
test = "test.csv"
[methods.gate]
kind = "probe"
settings = { weight_decay = 0.1 }
per_data = { mood = { learning_rate = 0.01 } }
"""


def suite_of(folder: Path, text: str, name: str = "suite.toml") -> Suite:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return load_suite(str(path))


def test_the_suite_that_ships_has_settings_that_every_method_takes() -> None:
    suite = load_suite(DEFAULT)
    made = [
        make_method(spec.kind, spec.options(data), name)
        for data in suite.data
        for name, spec in suite.methods_of(data).items()
    ]
    assert len(made) > len(suite.methods)


def test_toml_and_yaml_say_the_same(tmp_path: Path) -> None:
    yaml = """
seeds: [0, 1]
data: {mood: {train: train.csv, test: test.csv}}
methods:
  gate:
    kind: probe
    settings: {weight_decay: 0.1}
    per_data: {mood: {learning_rate: 0.01}}
"""
    assert suite_of(tmp_path, WHOLE) == suite_of(tmp_path, yaml, "suite.yaml")


def test_settings_of_one_data_set_go_on_top(tmp_path: Path) -> None:
    spec = suite_of(tmp_path, WHOLE).methods["gate"]
    assert spec.options("mood") == {"weight_decay": 0.1, "learning_rate": 0.01}
    assert spec.options("other") == {"weight_decay": 0.1}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("train =", "trian =", r"data.mood.trian: Unknown key 'trian'.*Did you mean 'train'"),
        ("seeds = [0, 1]", "seeds = []", "seeds: "),
        ("seeds = [0, 1]", "sedes = [0]", "Unknown key 'sedes'.*Did you mean 'seeds'"),
        ('test = "test.csv"', "test = 1.5", "data.mood.test: .*less than 1"),
        ("[data.mood]", '[data."../up"]', "data.*pattern"),
        ("{ mood = {", "{ modo = {", "Unknown data set 'modo'.*Did you mean 'mood'"),
        ("[methods.gate]", "[methods.gate", "cannot be parsed"),
    ],
)
def test_what_does_not_fit_is_a_sentence(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        suite_of(tmp_path, WHOLE.replace(old, new))


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("prob", {}, "Unknown kind of method 'prob'.*Did you mean 'probe'"),
        ("probe", {"weight_decy": 1}, "m, weight_decy: Unknown key.*Did you mean 'weight_decay'"),
        ("probe", {"probe": "gates"}, "Unknown probe 'gates'"),
        ("probe", {"settings": {"haeds": 1}}, "Unknown option of probe 'gate'"),
        ("probe", {"train": {"epoch": 1}}, "Unknown key 'epoch'.*Did you mean 'epochs'"),
        ("probe", {"grid": {"learning_rate": [-1.0]}}, "learning_rate: .*greater than 0"),
        ("shuffled", {"of": "all-layer"}, "Did you mean 'all-layers'"),
        ("best-layer", {"pooling": "max"}, "pooling: "),
    ],
)
def test_a_method_refuses_settings_that_it_does_not_take(
    kind: str, settings: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        make_method(kind, settings, "m")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no \.toml, \.yaml or \.yml file"):
        load_suite(str(tmp_path / "suite.json"))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_suite(str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match="holds no table"):
        suite_of(tmp_path, "- a\n- b\n", "list.yaml")


def test_on_another_model_stand_the_same_rows_and_methods_by_names_of_their_own() -> None:
    suite = load_suite(DEFAULT)
    other = suite.on_model("qwen.gguf", "qwen")
    assert other.model == "qwen.gguf" and suite.model != other.model
    for data, spec in suite.data.items():
        assert other.data[f"{data}-qwen"] == spec
        here, there = suite.methods_of(data), other.methods_of(f"{data}-qwen")
        assert here.keys() == there.keys()
        for name, method in here.items():
            assert method.options(data) == there[name].options(f"{data}-qwen")
    assert not suite.data.keys() & other.data.keys()
