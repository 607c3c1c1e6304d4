"""How a probe lies on disk: what a card says, what is refused and in which words."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pillion.core import ModelIdentity, Shape
from pillion.errors import ArtefactError, ConfigError, MismatchError, StorageError
from pillion.probe import Artefact, Card, build, make_settings

MODEL = ModelIdentity(
    name="tiny",
    weights_sha256="a" * 64,
    tokenizer_sha256="b" * 64,
    template_sha256="c" * 64,
    num_layers=4,
    dim=6,
    dtype="float32",
    context_tokens=128,
)

FACTS: dict[str, Any] = {
    "probe": "gate",
    "task": "binary",
    "labels": ("safe", "unsafe"),
    "layers": (1, 4),
    "template": "chat",
    "model": MODEL,
    "thresholds": (0.25,),
    "data": {"sha256": "d" * 64, "path": "rows.csv", "num_rows": 10, "split": "train"},
    "seed": 3,
    "training": {"learning_rate": 0.003, "epochs": 2},
    "metrics": {"auroc": 0.9, "tpr": None},
}


def artefact(seed: int = 0, **facts: Any) -> Artefact:
    network = build("gate", Shape(2, 6, 1), make_settings("gate", num_heads=2), seed)
    return Artefact.of("harm", network, **{**FACTS, **facts})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved probe's folder, alone in its parent."""
    artefact().save(tmp_path / "harm")
    return tmp_path / "harm"


def edit(folder: Path, **values: Any) -> None:
    """Changes the card; `model__dim=3` goes one level down, None removes a key."""
    card = json.loads((folder / "card.json").read_text())
    for path, value in values.items():
        *parents, key = path.split("__")
        place = card
        for parent in parents:
            place = place[parent]
        place[key] = value
        if value is None:
            del place[key]
    (folder / "card.json").write_text(json.dumps(card))


def refusal(folder: Path) -> str:
    with pytest.raises(ArtefactError) as caught:
        Artefact.load(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


# --- what former versions saved

VOTES = {"over_layers": "static", "prune": "none", "penalty": 0.01, "token_dropout": 0.0}
CONCAT = {**VOTES, "over_layers": "concat", "tokens": "mean", "num_heads": 1, "window": 10}
FORMER: list[tuple[str, dict[str, Any]]] = [
    ("gate", {"token_dropout": 0.3}),  # what only training sees may be anything
    ("gate-paper", {"token_dropout": 0.0}),
    ("gate-mlp", {"token_dropout": 0.0}),
    ("attention", VOTES),
    ("multimax", VOTES),
    ("rolling", VOTES),
    ("concat", {**CONCAT, "slope": False, "prune": "group", "penalty": 0.2}),
    ("mha", {"pool": "mean"}),
    ("mha-causal", {"pool": "mean"}),
]


def former(folder: Path, kind: str, **settings: Any) -> Artefact:
    """A probe with settings on its card that this version does not have; as it was made."""
    made = Artefact.of("harm", build(kind, Shape(2, 6, 1)), **{**FACTS, "probe": kind})
    made.save(folder)
    own = made.card.settings if kind != "concat" else {"normalise": True}
    edit(folder, settings={**own, **settings})
    return made


@pytest.mark.parametrize(("kind", "settings"), FORMER)
def test_a_card_with_settings_that_are_gone_is_read_where_they_change_nothing(
    tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    made = former(tmp_path / "harm", kind, **settings)
    found = Artefact.load(tmp_path / "harm")
    assert found.card == made.card
    hidden, mask = torch.randn(2, 3, 5, 6), torch.ones(3, 5, dtype=torch.bool)
    assert torch.equal(found.network(hidden, mask), made.network.eval()(hidden, mask))


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("attention", {**VOTES, "over_layers": "gate"}, "over_layers='gate', which is gone"),
        ("concat", {**CONCAT, "num_heads": 2}, "num_heads=2, which is gone"),
        ("concat", {**CONCAT, "tokens": "last"}, "tokens='last', which is gone"),
        ("mha", {"pool": "max"}, "pool='max', which is gone; what is left is 'mean'"),
    ],
)
def test_a_card_that_means_another_probe_than_is_left_is_refused(
    tmp_path: Path, kind: str, settings: dict[str, Any], words: str
) -> None:
    former(tmp_path / "harm", kind, **settings)
    assert words in (said := refusal(tmp_path / "harm")) and "train the probe again" in said


@pytest.mark.parametrize("kind", ["first", "glot", "last", "mean", "pooling-max"])
def test_a_kind_that_is_gone_is_refused_with_those_that_are_left(folder: Path, kind: str) -> None:
    edit(folder, probe=kind)
    said = refusal(folder)
    assert f"Unknown probe '{kind}'; known: attention, concat, gate" in said
    assert said.endswith("or train the probe again.") and "\n" not in said


# --- what is saved


def test_a_probe_is_a_folder_of_two_files_that_anyone_can_read(folder: Path) -> None:
    assert {file.name for file in folder.iterdir()} == {"card.json", "probe.safetensors"}
    card = json.loads((folder / "card.json").read_text())
    assert (card["format"], card["probe"], card["labels"]) == (2, "gate", ["safe", "unsafe"])
    assert card["model"]["weights_sha256"] == MODEL.weights_sha256
    assert card["tensors"]["bias"] == {"shape": [1], "dtype": "float32"}
    assert set(card["versions"]) == {"pillion", "torch", "transformers", "python"}
    weights = (folder / "probe.safetensors").read_bytes()
    assert card["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert set(safetensors.torch.load(weights)) == set(card["tensors"])


def test_a_loaded_card_equals_the_saved_one(folder: Path) -> None:
    assert Artefact.load(folder).card == artefact().card


def test_a_loaded_network_is_ready_to_be_read_from(folder: Path) -> None:
    assert not Artefact.load(folder).network.training
    assert all(weight.requires_grad for weight in Artefact.load(folder).network.parameters())


def test_a_card_holds_every_setting_so_that_a_later_default_changes_nothing() -> None:
    assert artefact().card.settings == make_settings("gate", num_heads=2).model_dump()
    few = Card(**{**dict(artefact().card), "settings": {"num_heads": 2}})
    assert few == artefact().card


def test_a_card_holds_the_name_of_the_data_file_and_not_its_folder() -> None:
    data = {**FACTS["data"], "path": "/home/someone/rows.csv"}
    assert artefact(data=data).card.data.path == "rows.csv"


def test_a_card_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        artefact().card.seed = 4  # pyright: ignore[reportAttributeAccessIssue]


def test_a_network_in_half_precision_stays_in_half_precision(tmp_path: Path) -> None:
    network = build("gate", Shape(2, 6, 1)).bfloat16()
    Artefact.of("half", network, **FACTS).save(tmp_path / "half")
    weights = Artefact.load(tmp_path / "half").network.state_dict()
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_labels_in_any_script_come_back(tmp_path: Path) -> None:
    labels = ("безопасно", "危険 🔥")
    artefact(labels=labels).save(tmp_path / "p")
    assert Artefact.load(tmp_path / "p").card.labels == labels


# --- names and decisions


def test_the_name_is_the_folders_unless_another_is_given(folder: Path) -> None:
    assert Artefact.load(folder).name == "harm"
    assert Artefact.load(f"{folder}/").name == "harm"
    assert Artefact.load(folder, name="guard").name == "guard"


def test_a_folder_named_by_a_dot_gives_its_own_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert Artefact.load(".").name == "harm"


def test_a_verdict_is_signed_and_decided_by_the_cards_threshold(folder: Path) -> None:
    probe = Artefact.load(folder)
    [prob] = probe.probabilities(torch.tensor([[-1.0]]))[0].tolist()
    assert prob == pytest.approx(0.2689, abs=1e-4)
    verdict = probe.verdict([prob])
    assert (verdict.probe, verdict.label, verdict.threshold) == ("harm", "unsafe", 0.25)


# --- what contradicts itself


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"labels": ("a", "b", "c")}, "a binary task, which has two"),
        ({"labels": ("a", "a")}, "given twice"),
        ({"task": "multiclass", "labels": ("a",), "thresholds": None}, "needs more"),
        ({"task": "multilabel", "labels": (), "thresholds": None}, "needs more"),
        ({"task": "multiclass", "labels": ("a", "b")}, "the largest probability decides"),
        ({"task": "multilabel", "labels": ("a", "b")}, "which has 2"),
        ({"thresholds": (1.5,)}, "0 to 1"),
        ({"thresholds": (float("nan"),)}, "finite"),
        ({"metrics": {"auroc": float("nan")}}, "finite"),
        ({"layers": ()}, "one or more different"),
        ({"layers": (1, 1)}, "one or more different"),
        ({"layers": (1, 5)}, r"\[5\] are not among the model's, 0 to 4"),
        ({"layers": (-1, 1)}, "are not among"),
        ({"model": replace(MODEL, dim=0)}, "width 0"),
        ({"template": "xml"}, "template is 'xml'"),
        ({"task": "regression"}, "task is 'regression'"),
        ({"probe": "gates"}, "Did you mean 'gate"),
        ({"lables": ()}, "Did you mean 'labels'"),
        ({"data": {"sha256": ""}}, r"data\.path: Field required"),
        ({"training": {"optimiser": object()}}, "training"),
    ],
)
def test_facts_that_contradict_each_other_are_refused(facts: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        artefact(**facts)


@pytest.mark.parametrize(
    "facts", [{"layers": (1,)}, {"model": replace(MODEL, dim=7)}, {"probe": "mha", "settings": {}}]
)
def test_a_network_that_is_not_the_cards_is_refused(facts: dict[str, Any]) -> None:
    card = Card(**{**dict(artefact().card), **facts})
    with pytest.raises(ArtefactError, match="the network is a Gate of Shape"):
        Artefact("harm", card, artefact().network)


def test_weights_that_changed_after_the_card_was_written_are_not_saved(tmp_path: Path) -> None:
    probe = artefact()
    with torch.no_grad():
        probe.network.get_parameter("bias").add_(1.0)
    with pytest.raises(ArtefactError, match="have changed"):
        probe.save(tmp_path / "p")
    assert not list(tmp_path.iterdir())


# --- what cannot be read


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "is not there; give the folder" in refusal(tmp_path / "none")
    assert "is not there; give the folder" in refusal(tmp_path / "no" / "parent")


def test_a_file_is_no_probe(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file; give the folder" in refusal(tmp_path / "file")


@pytest.mark.parametrize("name", ["card.json", "probe.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"holds no {name}" in refusal(folder)


@pytest.mark.parametrize("name", ["card.json", "probe.safetensors"])
def test_a_folder_in_a_files_place_cannot_be_read(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    assert "cannot be read" in refusal(folder)


def test_a_link_to_itself_is_no_probe(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert "is not there" in refusal(tmp_path / "loop")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_card_that_is_not_json_is_refused(folder: Path, text: bytes) -> None:
    (folder / "card.json").write_bytes(text)
    assert "not readable as JSON" in refusal(folder)


@pytest.mark.parametrize("text", [b"[]", b"{}", b"null", b'{"format": "one"}', b'{"format": 0}'])
def test_json_that_is_no_card_is_refused(folder: Path, text: bytes) -> None:
    (folder / "card.json").write_bytes(text)
    assert "is no card of a probe" in refusal(folder)


def test_a_card_of_the_first_format_reads_every_token(folder: Path) -> None:
    edit(folder, format=1, scope=None)
    assert Artefact.load(folder).card == artefact().card
    assert Artefact.load(folder).card.scope == "all"


def test_a_scope_of_turns_wants_a_chat_template() -> None:
    with pytest.raises(ConfigError, match="scope 'user' does not fit texts without turns"):
        artefact(template="raw", scope="user")


def test_a_card_of_a_newer_format_asks_for_a_newer_pillion(folder: Path) -> None:
    edit(folder, format=3, something_new=1)
    assert "has format 3, this pillion reads format 2" in refusal(folder)
    assert "upgrade" in refusal(folder)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("lables", "labels"),
        ("model__dimension", "model.dim"),
        ("data__sha", "data.sha256"),
        ("tensors__bias__shap", "tensors.bias.shape"),
        ("settings__heads", "num_heads"),
    ],
)
def test_an_unknown_key_of_a_card_names_the_nearest(folder: Path, key: str, near: str) -> None:
    edit(folder, **{key: 1})
    assert f"Did you mean '{near}'?" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": None}, "labels: Field required"),
        ({"seed": "3"}, "seed is '3': Input should be a valid integer"),
        ({"model__dim": "6"}, "model.dim is '6'"),
        ({"settings__num_heads": 0}, "num_heads"),
        ({"probe": "gatte"}, "Did you mean 'gate'?"),
        ({"labels": ["a", "b", "c"]}, "do not fit a binary task"),
        ({"task": "multiclass"}, "do not fit a multiclass task"),
        ({"metrics": {"auroc": float("inf")}}, "finite"),
        ({"layers": [1, 9]}, "are not among the model's"),
    ],
)
def test_a_value_that_does_not_fit_is_named(
    folder: Path, change: dict[str, Any], words: str
) -> None:
    edit(folder, **change)
    assert words in refusal(folder)


def test_damaged_weights_are_recognised(folder: Path) -> None:
    weights = bytearray((folder / "probe.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "probe.safetensors").write_bytes(weights)
    assert "is damaged or of another probe" in refusal(folder)


def replace_weights(folder: Path, content: bytes) -> None:
    """Other weights, with a card that vouches for them."""
    (folder / "probe.safetensors").write_bytes(content)
    edit(folder, weights_sha256=hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused(folder: Path, number: float) -> None:
    """They were loaded, and then every chat said that the model's states were not finite."""
    tensors = safetensors.torch.load((folder / "probe.safetensors").read_bytes())
    tensors["bias"][0] = number
    replace_weights(folder, safetensors.torch.save(tensors))
    assert "weights 'bias' hold NaN or infinity" in refusal(folder)


def test_weights_that_are_no_safetensors_are_refused(folder: Path) -> None:
    replace_weights(folder, b"PK\x03\x04 a pickle, perhaps")
    assert "is no safetensors file" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t | {"extra": torch.ones(2)}, "'extra' is float32 (2,) and not absent"),
        (lambda t: {"bias": t["bias"]}, "'layer_score' is absent and not float32 (2, 6)"),
        (lambda t: t | {"bias": torch.ones(3)}, "'bias' is float32 (3,) and not float32 (1,)"),
        (lambda t: t | {"bias": t["bias"].half()}, "'bias' is float16 (1,) and not float32 (1,)"),
    ],
)
def test_weights_that_are_not_the_cards_name_the_tensor(
    folder: Path,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    words: str,
) -> None:
    tensors = safetensors.torch.load((folder / "probe.safetensors").read_bytes())
    replace_weights(folder, safetensors.torch.save(change(tensors)))
    assert words in refusal(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"settings__num_heads": 3},
        {"layers": [1]},
        {"model__dim": 5},
        {"model__dim": 10**30},
        {"task": "multilabel", "thresholds": [0.5, 0.5]},
        {"probe": "pooling", "settings": {}},
    ],
)
def test_weights_that_do_not_fit_the_settings_are_refused(
    folder: Path, change: dict[str, Any]
) -> None:
    edit(folder, **change)
    assert "do not fit the settings" in refusal(folder) or "no probe has" in refusal(folder)


# --- where it is saved


def test_missing_parents_are_made(tmp_path: Path) -> None:
    artefact().save(tmp_path / "a" / "b")
    assert Artefact.load(tmp_path / "a" / "b").name == "b"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    artefact().save(tmp_path / "p")
    assert Artefact.load(tmp_path / "p").card == artefact().card


def test_a_saved_probe_is_replaced_and_other_files_beside_it_are_kept(folder: Path) -> None:
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").write_text("keep")
    artefact(seed=1).save(folder)
    assert Artefact.load(folder).card == artefact(seed=1).card
    assert (folder / "notes" / "mine.txt").read_text() == "keep"
    assert [entry.name for entry in folder.parent.iterdir()] == ["harm"]


def test_a_broken_probe_can_be_replaced(folder: Path) -> None:
    (folder / "card.json").write_text("{")
    artefact().save(folder)
    assert Artefact.load(folder).card == artefact().card


def test_a_folder_that_is_no_probe_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(ArtefactError, match=r"not a probe.*choose another path"):
        artefact().save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ArtefactError, match="a file, not a probe"):
        artefact().save(tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "years"


def test_the_root_folder_is_no_probe() -> None:
    with pytest.raises(ArtefactError, match="not a probe"):
        artefact().save("/")
    with pytest.raises(ArtefactError, match=r"holds no card\.json"):
        Artefact.load("/")


def test_a_link_stays_a_link_and_what_it_points_to_is_replaced(folder: Path) -> None:
    link = folder.parent / "current"
    link.symlink_to("harm")
    assert Artefact.load(link).name == "current"
    artefact(seed=1).save(link)
    assert link.is_symlink()
    assert Artefact.load(folder).card == Artefact.load(link).card == artefact(seed=1).card


def fill_disk(monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> None:
    """The n-th time that a system call is made it finds the disk full."""
    calls: list[int] = []
    real = getattr(os, name)

    def call(*args: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == times:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **named)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize(
    ("call", "times"), [("fsync", 1), ("fsync", 2), ("fsync", 3), ("rename", 1)]
)
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, times: int
) -> None:
    fill_disk(monkeypatch, call, times)
    with pytest.raises(StorageError, match="No space left on device"):
        artefact().save(tmp_path / "p")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "times"), [("fsync", 1), ("fsync", 3), ("rename", 1), ("rename", 2)]
)
def test_a_full_disk_leaves_the_old_probe_in_its_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, times: int
) -> None:
    fill_disk(monkeypatch, call, times)
    with pytest.raises(StorageError, match="choose another path"):
        artefact(seed=1).save(folder)
    assert [entry.name for entry in folder.parent.iterdir()] == ["harm"]
    assert Artefact.load(folder).card == artefact().card


def test_the_next_save_removes_what_a_killed_one_left(folder: Path) -> None:
    left = folder.parent / ".harm.0123456789abcdef.tmp"
    left.mkdir()
    (left / "card.json").write_text("{")
    artefact(seed=1).save(folder)
    assert [entry.name for entry in folder.parent.iterdir()] == ["harm"]


def test_a_probe_set_aside_by_a_killed_save_is_read_with_a_warning(folder: Path) -> None:
    folder.rename(folder.parent / ".harm.old")
    with pytest.warns(UserWarning, match="did not finish; the probe before it was read"):
        assert Artefact.load(folder).card == artefact().card


def test_saves_and_loads_at_the_same_time_meet_whole_probes(folder: Path) -> None:
    probes = [artefact(seed=seed) for seed in range(4)]
    hashes = {probe.card.weights_sha256 for probe in probes}
    with ThreadPoolExecutor(5) as pool:
        saves = [pool.submit(probe.save, folder) for probe in probes * 5]
        loads = [pool.submit(Artefact.load, folder) for _ in range(20)]
    assert all(save.exception() is None for save in saves)
    assert {load.result().card.weights_sha256 for load in loads} <= hashes
    assert [entry.name for entry in folder.parent.iterdir()] == ["harm"]


# --- which model it belongs to


def mismatch(identity: ModelIdentity, **facts: Any) -> str:
    with pytest.raises(MismatchError) as caught:
        artefact(**facts).check(identity)
    return str(caught.value)


def test_the_model_it_was_trained_on_is_accepted_under_any_name() -> None:
    artefact().check(replace(MODEL, name="a copy", context_tokens=64))


@pytest.mark.parametrize(
    ("field", "word"),
    [
        ("weights_sha256", "weights"),
        ("tokenizer_sha256", "tokenizer"),
        ("template_sha256", "chat template"),
        ("dtype", "dtype"),
    ],
)
def test_another_fingerprint_is_named_and_can_be_allowed(field: str, word: str) -> None:
    other = replace(MODEL, **{field: "other"})
    wanted = getattr(MODEL, field)[:16]
    assert f"It wants {word} {wanted}, this model has other." in mismatch(other)
    with pytest.warns(UserWarning, match=f"It wants {word}"):
        artefact().check(other, allow_mismatch=True)


def test_the_same_weights_in_float32_are_no_other_model() -> None:
    narrow = artefact(model=replace(MODEL, dtype="bfloat16"))
    narrow.check(replace(MODEL, dtype="float32"))
    with pytest.raises(MismatchError, match="It wants dtype bfloat16, this model has float16"):
        narrow.check(replace(MODEL, dtype="float16"))


def test_the_copy_in_float16_has_the_same_weights() -> None:
    """The fp16 copy of a model in fp32 was refused for other weights, and the other way round."""
    wide = replace(MODEL, float16_sha256="f" * 64, dtype="float32")
    half = replace(wide, weights_sha256="f" * 64, dtype="float16")
    artefact(model=half).check(wide)
    with pytest.raises(MismatchError) as caught:
        artefact(model=wide).check(half)
    assert "dtype float32, this model has float16" in str(caught.value)
    assert "weights" not in str(caught.value)
    with pytest.raises(MismatchError, match="wants weights"):
        artefact(model=half).check(replace(wide, float16_sha256="e" * 64))


def test_every_difference_is_named_in_a_sentence() -> None:
    message = mismatch(replace(MODEL, weights_sha256="", tokenizer_sha256="t", dim=8, num_layers=9))
    assert "It wants weights aaaaaaaaaaaaaaaa, this model has none." in message
    assert "It wants tokenizer" in message
    assert "Its states are 6 wide, this model's 8." in message
    assert "It wants a model of 4 layers, this one has 9." in message


def test_the_chat_template_counts_for_chat_turns_only() -> None:
    other = replace(MODEL, template_sha256="other")
    artefact(template="raw").check(other)
    assert "chat template" in mismatch(other, template="chat")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dim": 8}, "this model's 8"),
        ({"num_layers": 5}, "this one has 5"),
        ({"num_layers": 3}, r"reads layers \[4\], beyond this model's last"),
    ],
)
def test_another_shape_is_never_allowed(change: dict[str, Any], words: str) -> None:
    other = replace(MODEL, dtype="bfloat16", **change)
    with warnings.catch_warnings(), pytest.raises(MismatchError, match=words):
        artefact().check(other, allow_mismatch=True)


# --- depths and exits

READ = {"depth": 1, "bands": ((0.1, 0.9),)}
CONFORMAL = {"method": "lac", "coverage": 0.9, "limit": 0.2}
EXIT = {"reads": (READ,), "found": {"differing": 0.004}}


def test_depths_and_exits_lie_on_the_card_and_come_back(tmp_path: Path) -> None:
    saved = artefact(depths=(1,), exit=EXIT)
    saved.save(tmp_path / "deep")
    card = Artefact.load(tmp_path / "deep").card
    assert card == saved.card
    assert card.depths == (1,) and card.exit is not None and card.exit.depths == (1,)
    assert card.num_layers_to(1) == 1 and card.num_layers_to(4) == 2


def test_a_card_from_before_there_were_depths_has_none(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    del card["depths"], card["exit"]
    (folder / "card.json").write_text(json.dumps(card))
    loaded = Artefact.load(folder)
    assert loaded.card.depths == () and loaded.card.exit is None
    assert loaded.whole is loaded


def test_the_whole_of_a_probe_with_exits_is_the_probe_without_them() -> None:
    probe = artefact(depths=(1,), exit=EXIT)
    assert probe.whole.card == artefact(depths=(1,)).card
    assert probe.whole is probe.whole and probe.whole.network is probe.network


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"depths": (4,)}, "depths [4] are not rising layers below the last it reads"),
        ({"depths": (2,)}, "depths [2] are not rising"),
        ({"depths": (1, 1)}, "depths [1, 1] are not rising"),
        ({"exit": EXIT}, "depths [1] are not rising ones of the probe's []"),
        ({"depths": (1,), "exit": {**EXIT, "reads": ()}}, "exit.reads"),
        ({"depths": (1,), "exit": {**EXIT, "patience": 1}}, "exit.patience is 1"),
        (
            {"depths": (1,), "exit": {**EXIT, "reads": ({**READ, "bands": ()},)}},
            "0 bands of depth 1 for 1 outputs",
        ),
        (
            {"depths": (1,), "exit": {**EXIT, "reads": ({**READ, "bands": ((0.9, 0.1),)},)}},
            "from low to high",
        ),
        (
            {"depths": (1,), "exit": EXIT, "conformal": CONFORMAL},
            "sets of labels keep their promise at full depth alone",
        ),
    ],
)
def test_a_card_whose_exits_do_not_fit_is_refused(facts: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        artefact(**facts)
    assert words in str(caught.value)


def test_a_probe_without_read_outs_at_depths_has_none_on_its_card() -> None:
    network = build("pooling", Shape(2, 6, 1))
    with pytest.raises(ConfigError, match="probe 'pooling' has no read-outs at depths"):
        Artefact.of("mean", network, **{**FACTS, "probe": "pooling", "depths": (1,)})


def test_calibration_of_a_depth_is_its_own() -> None:
    half = {"method": "platt", "scales": (0.5,), "offsets": (3.0,)}
    exit = {**EXIT, "reads": ({**READ, "calibration": half},)}
    probe, logits = artefact(depths=(1,), exit=exit), torch.tensor([[2.0]])
    assert probe.probabilities_at(0, logits).item() == pytest.approx(1 / (1 + 2.718282**-4))
    assert probe.probabilities(logits).item() == pytest.approx(1 / (1 + 2.718282**-2))
    wrong = {**half, "scales": (0.5, 0.5)}
    with pytest.raises(ConfigError, match="2 scales and 1 offsets of depth 1 do not fit"):
        artefact(depths=(1,), exit={**EXIT, "reads": ({**READ, "calibration": wrong},)})
