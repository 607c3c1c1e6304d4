"""From texts and labels to trained probes, on the shipped engine without weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pillion.backends.fake import FakeBackend
from pillion.backends.transformers import TransformersBackend
from pillion.cache import CacheReader
from pillion.core import Scope, Turn, as_conversation
from pillion.data import (
    Contexts,
    DataSet,
    Rows,
    TableLayout,
    in_context,
    join_sets,
    split_validation,
)
from pillion.errors import ConfigError, DataError, MismatchError
from pillion.fit import FitSettings, Fitted, fit
from pillion.probe import Artefact
from pillion.runtime import LanguageModel
from pillion.train import Chosen, Examples, ProbeConfig, TrainSettings, choose_probe
from pillion.train.examples import together
from tiny_models import tiny_model, tiny_tokenizer

WORDS = {"fine": "a lovely day {}", "poor": "an awful mess {}"}


@pytest.fixture
def model() -> LanguageModel:
    return LanguageModel(FakeBackend())


def rows(num_rows: int = 24, start: int = 0) -> Rows:
    names = [list(WORDS)[i % 2] for i in range(num_rows)]
    texts = [WORDS[name].format(start + i) for i, name in enumerate(names)]
    return Rows.of(texts, names, "rows.jsonl")


def fit_rows(
    model: LanguageModel,
    work: Path,
    training: Rows,
    validation: Rows | None = None,
    settings: FitSettings | None = None,
    configs: tuple[ProbeConfig, ...] = (ProbeConfig(),),
) -> tuple[list[Fitted], list[str]]:
    said: list[str] = []
    fitted = fit(model, training, validation, configs, work, settings, say=said.append)
    return fitted, said


def test_separable_texts_are_learnt(model: LanguageModel, tmp_path: Path) -> None:
    (best,), _ = fit_rows(model, tmp_path, rows(60))
    verdicts = model.score(rows(20, start=900).texts, [best.artefact])
    labels = [verdict["gate"].label for verdict in verdicts]
    assert labels == ["fine", "poor"] * 10


def test_the_card_tells_the_whole_story(model: LanguageModel, tmp_path: Path) -> None:
    settings = FitSettings(template="raw", layers=(1, 3), train=TrainSettings(epochs=2))
    training, validation = rows(), rows(8, start=500)
    (best,), _ = fit_rows(model, tmp_path, training, validation, settings)
    card = best.artefact.card
    assert (card.template, card.layers, card.model) == ("raw", (1, 3), model.backend.identity)
    assert card.data.sha256 == training.sha256
    assert card.data.validation_sha256 == validation.sha256
    assert (card.data.num_rows, card.data.split) == (24, "all rows")
    assert card.training["epochs"] == 2 and card.training["best_epoch"] == best.trained.best_epoch
    assert card.metrics["accuracy"] is not None


def test_without_validation_rows_a_stratified_share_is_held_back(
    model: LanguageModel, tmp_path: Path
) -> None:
    settings = FitSettings(validation_share=0.1)
    (best,), _ = fit_rows(model, tmp_path, rows(40), settings=settings)
    data = best.artefact.card.data
    assert (data.num_rows, data.validation_sha256) == (36, None)
    assert data.split == "90% of the rows, stratified"


def test_where_no_row_can_be_held_back_the_card_and_a_sentence_say_so(
    model: LanguageModel, tmp_path: Path
) -> None:
    (best,), said = fit_rows(model, tmp_path, rows(2))
    assert best.artefact.card.data.split == "all rows"
    assert any("No row can be held out" in sentence for sentence in said)
    notes = best.artefact.card.data.notes
    assert sum("metrics are of the training rows" in note for note in notes) == 1


def test_the_best_configuration_comes_first_and_each_keeps_its_own_facts(
    model: LanguageModel, tmp_path: Path
) -> None:
    configs = tuple(
        ProbeConfig(probe=name, seed=seed) for name in ("gate", "pooling") for seed in (0, 1)
    )
    fitted, _ = fit_rows(model, tmp_path, rows(30), configs=configs)
    scores = [one.artefact.card.metrics["auprc"] or 0 for one in fitted]
    assert scores == sorted(scores, reverse=True)
    for one in fitted:
        assert one.artefact.card.probe == one.trained.config.probe
        assert one.artefact.card.seed == one.trained.config.seed


def test_labels_are_checked_before_the_model_runs(tmp_path: Path) -> None:
    class Untouched(FakeBackend):
        def forward(self, *_: object, **__: object) -> None:
            raise AssertionError("the model ran")

    model = LanguageModel(Untouched())
    one_class = Rows.of(["a", "b"], ["x", "x"], "one.csv")
    with pytest.raises(DataError, match=r"one\.csv: .*only 'x'"):
        fit_rows(model, tmp_path, one_class)
    odd = Rows.of(["a"], ["odd"], "odd.csv")
    with pytest.raises(DataError, match=r"odd\.csv: .*'odd'"):
        fit_rows(model, tmp_path, rows(), odd)
    unlabelled = Rows.of(["a"], None, "texts.csv")
    with pytest.raises(DataError, match=r"texts\.csv has no labels"):
        fit_rows(model, tmp_path, unlabelled)
    long = Rows.of(["a", "b" * 600], ["fine", "poor"], "long.csv")
    with pytest.raises(DataError, match=r"long\.csv: Row 2"):
        fit_rows(model, tmp_path, rows(), long)
    assert not list(tmp_path.iterdir())


def test_states_go_to_the_cache_and_the_rest_to_the_work_folder(
    model: LanguageModel, tmp_path: Path
) -> None:
    settings = FitSettings(cache=tmp_path / "cache")
    fit_rows(model, tmp_path / "work", rows(), rows(4), settings)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"train", "validation"}
    assert {path.name for path in (tmp_path / "work").iterdir()} == {"checkpoint"}


def test_a_live_pass_writes_no_states(model: LanguageModel, tmp_path: Path) -> None:
    settings = FitSettings(live=True, layers=(0, 2))
    (best,), said = fit_rows(model, tmp_path, rows(), settings=settings)
    assert best.artefact.card.layers == (0, 2)
    assert not [sentence for sentence in said if "on disk" in sentence]
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint"}


def test_rows_of_answers_give_a_probe_of_answers(model: LanguageModel, tmp_path: Path) -> None:
    talks = [
        [{"role": "user", "content": f"How is it? {i}"}, {"role": "assistant", "content": text}]
        for i, text in enumerate(rows().texts)
    ]
    answered = Rows.of(talks, list(rows().labels or ()), "memory")
    (fitted,), _ = fit_rows(model, tmp_path, answered)
    assert fitted.artefact.card.scope == "response"
    (verdict,) = model.score([as_conversation(talks[0])], [fitted.artefact])
    assert verdict["gate"].label in WORDS


def test_a_scope_that_is_given_counts(model: LanguageModel, tmp_path: Path) -> None:
    for scope in ("all", "user"):
        settings = FitSettings(scope=scope, live=True)  # type: ignore[arg-type]
        (fitted,), _ = fit_rows(model, tmp_path / scope, rows(), settings=settings)
        assert fitted.artefact.card.scope == scope


BEFORE = Contexts(
    "folder/own.jsonl",
    "0" * 64,
    (
        (Turn("system", "be brief and answer in English"),),
        (Turn("user", "an awful mess"), Turn("assistant", "a lovely day")),
    ),
)


def test_a_probe_trained_in_contexts_knows_it_and_reads_the_row_alone(
    model: LanguageModel, tmp_path: Path
) -> None:
    settings = FitSettings(contexts=BEFORE)
    (best,), _ = fit_rows(model, tmp_path, rows(120), settings=settings)
    card = best.artefact.card
    wanted = {"name": "own.jsonl", "sha256": "0" * 64, "num": 2}
    assert card.training["contexts"] == wanted
    assert (card.scope, card.data.num_rows) == ("last-user", 96)
    for context in ((), *BEFORE.each):
        texts = [in_context(text, context) for text in rows(20, start=900).texts]
        labels = [one["gate"].label for one in model.score(texts, [best.artefact])]
        assert labels == ["fine", "poor"] * 10


def test_validation_rows_are_read_alone_and_in_context(
    model: LanguageModel, tmp_path: Path
) -> None:
    settings = FitSettings(contexts=BEFORE, cache=tmp_path / "states")
    fit_rows(model, tmp_path, rows(24), rows(8, start=500), settings)
    with CacheReader(tmp_path / "states" / "train") as reader:
        assert len(reader.spec.lengths) == 24
    with CacheReader(tmp_path / "states" / "validation") as reader:
        assert len(reader.spec.lengths) == 16


@pytest.mark.parametrize("contexts", [None, BEFORE], ids=["read once", "read twice"])
def test_a_threshold_is_chosen_only_on_enough_validation_rows(
    model: LanguageModel, tmp_path: Path, contexts: Contexts | None
) -> None:
    """25 rows with a label, each alone and in a context, looked like the 50 that one needs."""
    settings = FitSettings(contexts=contexts, train=TrainSettings(epochs=1))
    (few,), _ = fit_rows(model, tmp_path / "few", rows(), rows(98, start=500), settings)
    (enough,), _ = fit_rows(model, tmp_path / "enough", rows(), rows(100, start=500), settings)
    assert few.artefact.card.thresholds is None
    assert len(enough.artefact.card.thresholds or ()) == 1


def test_a_turn_that_does_not_fit_is_named_by_the_row_that_it_stands_in(
    model: LanguageModel, tmp_path: Path
) -> None:
    """Each labelled turn is an example of its own, and examples were counted."""
    talks = [
        [{"role": "user", "content": words}, {"role": "user", "content": "z" * (600 * (n == 5))}]
        for n, words in enumerate(rows(6).texts)
    ]
    for turns in talks[:5]:
        turns[1]["content"] = "well"
    data = Rows.of(talks, [["fine", "poor"]] * 6, "t.jsonl", TableLayout(turn_labels=True))
    with pytest.raises(DataError, match=r"t\.jsonl: Row 6: the text has"):
        fit_rows(model, tmp_path, data)
    odd = Rows.of(talks[:2], [[None, "fine"], [None, "odd"]], "v", TableLayout(turn_labels=True))
    with pytest.raises(DataError, match=r"'odd', first in row 2"):
        fit_rows(model, tmp_path, rows(), odd)


@pytest.mark.parametrize("probe", ["gate", "auto"])
def test_rows_that_are_read_twice_are_no_more_rows_to_choose_an_epoch_by(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probe: str
) -> None:
    """25 rows, alone and in a context, chose like the 50 that it takes."""
    asked: list[tuple[int, int]] = []

    def spied(self: TrainSettings, num_rows: int, num_held: int) -> TrainSettings:
        asked.append((num_rows, num_held))
        return TrainSettings(epochs=1)

    monkeypatch.setattr(TrainSettings, "for_rows", spied)
    how, configs = FitSettings(contexts=BEFORE, layers=(0, 1)), (ProbeConfig(probe=probe),)
    with monkeypatch.context() as patched:
        patched.setattr("pillion.train.auto.MOST_ROWS", 10)
        fit_rows(model, tmp_path, rows(), rows(26, start=500), how, configs)
    assert set(asked) == {(24, 26)}


def test_a_row_that_cannot_be_used_is_named_by_its_own_number(
    model: LanguageModel, tmp_path: Path
) -> None:
    """With contexts rows are parted before they are read, and then had other numbers."""
    long = [*rows(30).texts[:-1], "z" * 600]
    data = Rows.of(long, rows(30).labels, "rows.jsonl")
    with pytest.raises(DataError, match=r"rows\.jsonl: Row 30: the text has"):
        fit_rows(model, tmp_path, data, settings=FitSettings(contexts=BEFORE))


def test_states_read_in_the_order_of_beginnings_belong_to_their_rows(
    model: LanguageModel, tmp_path: Path
) -> None:
    """Labels follow the rows although rows that begin alike lie together on disk."""
    settings = FitSettings(contexts=BEFORE, train=TrainSettings(epochs=1))
    (cached,), _ = fit_rows(model, tmp_path / "a", rows(), rows(20, start=500), settings)
    live = FitSettings(contexts=BEFORE, train=TrainSettings(epochs=1), live=True)
    (ran,), _ = fit_rows(model, tmp_path / "b", rows(), rows(20, start=500), live)
    one, two = (x.artefact.card.metrics["auprc"] for x in (cached, ran))
    assert one == pytest.approx(two, abs=1e-4)


def test_a_probe_of_a_model_with_an_adapter_belongs_to_both(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(tiny_model(vocab=300), config, adapter_name="tone").eval()
    model = LanguageModel(TransformersBackend(wrapped, tiny_tokenizer(), "tiny"))
    settings = FitSettings(template="raw", train=TrainSettings(epochs=2))
    (best,), _ = fit_rows(model, tmp_path / "work", rows(), settings=settings)
    best.artefact.save(tmp_path / "probe")
    again = Artefact.load(tmp_path / "probe")

    assert again.card.model.adapters == ("tone",)
    assert model.score(["a lovely day"], [again])
    with wrapped.disable_adapter(), pytest.raises(MismatchError, match="adapters tone, this model"):
        model.score(["a lovely day"], [again])


def against(share: float) -> Rows:
    """Two sets that call the same words by each other's labels; the share of the first."""
    names = ["fine", "poor"] * 30
    sides = [[WORDS[name].format(at * 100 + n) for n, name in enumerate(names)] for at in (0, 1)]
    own = [Rows.of(texts, names, "rows.jsonl") for texts in sides]
    swapped = {"fine": "poor", "poor": "fine"}
    return join_sets([DataSet("right", own[0], share=share), DataSet("wrong", own[1], swapped)])


@pytest.mark.parametrize(("share", "wanted"), [(0.95, "fine"), (0.05, "poor")])
def test_of_sets_that_contradict_each_other_the_heavier_one_is_learnt(
    model: LanguageModel, tmp_path: Path, share: float, wanted: str
) -> None:
    (best,), _ = fit_rows(model, tmp_path, against(share), rows(8, start=500))
    verdicts = model.score([WORDS["fine"].format(900 + n) for n in range(6)], [best.artefact])
    assert {verdict["gate"].label for verdict in verdicts} == {wanted}


def test_a_share_holds_where_validation_rows_are_learnt_from_too(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of one set alone, each counted as one, took a third of the other set's share away."""
    counted: list[np.ndarray] = []

    def spied(*rows: Examples) -> Examples:
        both = together(*rows)
        assert both.weights is not None
        counted.append(both.weights)
        return both

    monkeypatch.setattr("pillion.train.loop.together", spied)
    parts = [DataSet("a", rows(20), share=0.9), DataSet("b", rows(10, start=300))]
    training = join_sets(parts)
    held = join_sets([DataSet("b", rows(30, start=500))], training)
    how = FitSettings(live=True, layers=(0, 1), train=TrainSettings(epochs=1, refit=True))
    fit_rows(model, tmp_path, training, held, how)
    (weights,) = counted
    assert weights[:20].sum() == pytest.approx(0.9 * len(weights))
    assert weights.mean() == pytest.approx(1)


def test_validation_rows_of_no_set_are_refused_where_labels_are_masked(
    model: LanguageModel, tmp_path: Path
) -> None:
    other = Rows.of(["a", "b"], ["fine", "odd"], "other.jsonl")
    with pytest.raises(DataError, match=r"belongs to none of the sets a, b"):
        fit_rows(
            model, tmp_path, join_sets([DataSet("a", rows()), DataSet("b", other)]), rows(8, 500)
        )


def test_a_probe_of_probabilities_says_them(model: LanguageModel, tmp_path: Path) -> None:
    """By marks of one half it would say nearly 1 and nearly 0."""
    chance = {"fine": 0.7, "poor": 0.3}
    names = ["fine", "poor"] * 60
    texts = [WORDS[name].format(n) for n, name in enumerate(names)]
    cells = [{"fine": chance[name], "poor": 1 - chance[name]} for name in names]
    training = Rows.of(texts, cells, "rows.jsonl", TableLayout(soft=True))
    settings = FitSettings(train=TrainSettings(epochs=20))
    (best,), _ = fit_rows(model, tmp_path, training, None, settings)
    assert (best.artefact.card.task, best.artefact.card.labels) == ("binary", ("fine", "poor"))
    assert best.artefact.card.metrics["accuracy"] == 1
    for name, wanted in chance.items():
        (row,) = model.score([WORDS[name].format(900)], [best.artefact])
        assert row["gate"].probs["fine"] == pytest.approx(wanted, abs=0.07)


def test_probabilities_of_many_labels_are_learnt_too(model: LanguageModel, tmp_path: Path) -> None:
    names = ["fine", "poor"] * 60
    texts = [WORDS[name].format(n) for n, name in enumerate(names)]
    cells = [
        {"a": 0.8 if name == "fine" else 0.4, "b": None if n % 3 else 0.3}
        for n, name in enumerate(names)
    ]
    training = Rows.of(texts, cells, "rows.jsonl", TableLayout(soft=True))
    settings = FitSettings(train=TrainSettings(epochs=20, refit=True))
    (best,), _ = fit_rows(model, tmp_path, training, None, settings)
    said = {
        name: model.score([WORDS[name].format(900)], [best.artefact])[0]["gate"].probs
        for name in WORDS
    }
    assert said["fine"]["a"] == pytest.approx(0.8, abs=0.1)
    assert said["poor"]["a"] == pytest.approx(0.4, abs=0.1)


def test_auto_refuses_probabilities_of_validation_rows_too(
    model: LanguageModel, tmp_path: Path
) -> None:
    """They were taken for plain labels, in silence."""
    texts, cells = ["a mess", "a day"] * 4, [{"poor": 0.7, "fine": 0.3}, {"poor": 0.3, "fine": 0.7}]
    held = Rows.of(texts, cells * 4, "held.jsonl", TableLayout(soft=True))
    with pytest.raises(ConfigError, match="nor probabilities as labels"):
        fit_rows(model, tmp_path, rows(), held, None, (ProbeConfig(probe="auto"),))


def test_what_a_live_run_of_another_model_left_is_refused(
    model: LanguageModel, tmp_path: Path
) -> None:
    """No states lie on disk, whose key would tell: the other model's probe was taken for this's."""
    settings = FitSettings(live=True, layers=(0, 2), train=TrainSettings(epochs=1))
    fit_rows(model, tmp_path, rows(), settings=settings)
    fit_rows(model, tmp_path, rows(), settings=settings)
    with pytest.raises(ConfigError, match="is of another model"):
        fit_rows(LanguageModel(FakeBackend(seed=1)), tmp_path, rows(), settings=settings)


def talks(num_rows: int = 40) -> Rows:
    """Rows whose last words differ in length from what stands before them."""
    before = [
        [
            {"role": "system", "content": "be brief. " * (i % 5 + 1)},
            {"role": "user", "content": "a"},
        ]
        for i in range(num_rows)
    ]
    texts = [
        [*some, {"role": "assistant", "content": text}]
        for some, text in zip(before, rows(num_rows).texts, strict=True)
    ]
    return Rows.of(texts, list(rows(num_rows).labels or ()), "rows.jsonl")


def weights(fitted: Fitted) -> torch.Tensor:
    return torch.cat([one.flatten() for one in fitted.artefact.network.parameters()])


@pytest.mark.parametrize("scope", ["user", "response"])
def test_states_of_all_tokens_teach_what_those_of_the_scope_do(
    model: LanguageModel, tmp_path: Path, scope: Scope
) -> None:
    """Batches and prefixes were drawn over the tokens that the probe does not read, too."""

    def fitted(scope: Scope, cache: str) -> Fitted:
        how = FitSettings(scope=scope, cache=tmp_path / cache, train=TrainSettings(epochs=2))
        (one,), _ = fit_rows(model, tmp_path / f"{scope}-{cache}", talks(), settings=how)
        return one

    fitted("all", "whole")
    whole, own = (weights(fitted(scope, cache)) for cache in ("whole", "own"))
    assert torch.allclose(whole, own, atol=1e-6)


def test_what_a_run_of_another_scope_left_is_refused(model: LanguageModel, tmp_path: Path) -> None:
    """States of all tokens serve every scope, and one's weights were taken for another's."""
    how = FitSettings(scope="all", cache=tmp_path / "states", train=TrainSettings(epochs=1))
    fit_rows(model, tmp_path / "all", talks(), settings=how)
    with pytest.raises(ConfigError, match="The unfinished training"):
        fit_rows(model, tmp_path / "all", talks(), settings=replace(how, scope="user"))


def test_changed_copies_are_learnt_from_and_not_counted(
    model: LanguageModel, tmp_path: Path
) -> None:
    settings = FitSettings(augment=("leet", "case"), train=TrainSettings(epochs=1))
    (with_copies,), _ = fit_rows(model, tmp_path / "a", rows(60), None, settings)
    (plain,), _ = fit_rows(model, tmp_path / "b", rows(60), None, FitSettings(train=settings.train))
    ours, theirs = with_copies.artefact.card, plain.artefact.card
    assert ours.data == theirs.data  # rows, their split and labels
    assert ours.training["augment"] == ["leet", "case"] and "augment" not in theirs.training
    verdicts = [
        model.score([WORDS["fine"].format(1)], [one.artefact]) for one in (with_copies, plain)
    ]
    assert verdicts[0] != verdicts[1]


def test_the_card_says_whether_validation_rows_were_learnt_from(
    model: LanguageModel, tmp_path: Path
) -> None:
    """`auto` learns from them by itself, and its card said that it had not."""
    how = FitSettings(live=True, layers=(0, 1), train=TrainSettings(epochs=1))
    found: dict[str, object] = {}
    for probe, data in (("gate", rows()), ("auto", rows()), ("auto", rows(2))):
        configs = (ProbeConfig(probe=probe),)
        (one,), _ = fit_rows(model, tmp_path / f"{probe}{len(data)}", data, None, how, configs)
        found[f"{probe} of {len(data)}"] = one.artefact.card.training["refit"]
    assert found == {"gate of 24": False, "auto of 24": True, "auto of 2": False}


def test_no_rows_at_all_to_validate_on_are_refused(model: LanguageModel, tmp_path: Path) -> None:
    """A share of 0 was taken for none given, and a fifth was held back."""
    with pytest.raises(ConfigError, match=r"fraction = 0\.0; give a share"):
        fit_rows(model, tmp_path, rows(), settings=FitSettings(validation_share=0.0))


def test_auto_has_no_depths_to_promise(model: LanguageModel, tmp_path: Path) -> None:
    """It was called an unknown probe."""
    how = FitSettings(depths="auto")
    with pytest.raises(ConfigError, match="no read-outs at depths; name a gate"):
        fit_rows(model, tmp_path, rows(), None, how, (ProbeConfig(probe="auto"),))


def test_a_row_and_its_copies_are_one_group(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone and in a context each validation row stood twice, and `auto` told one by the other."""
    asked: list[Examples] = []

    def choose(training: Examples, validation: Examples, *rest: object) -> Chosen:
        asked.extend([training, validation])
        return choose_probe(training, validation, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr("pillion.fit.choose_probe", choose)
    settings = FitSettings(contexts=BEFORE, train=TrainSettings(epochs=1))
    fit_rows(model, tmp_path, rows(), None, settings, (ProbeConfig(probe="auto"),))
    groups = [None if one.groups is None else one.groups.tolist() for one in asked]
    assert groups == [None, [*range(5), *range(5)]]


def test_layers_are_chosen_without_changed_copies(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row is left out in turns, and its copy told of it."""
    counts: list[int] = []

    def choose(backend: object, tokens: list[object], *rest: object) -> tuple[int, ...]:
        counts.append(len(tokens))
        return (1, 2)

    monkeypatch.setattr("pillion.fit.choose_layers", choose)
    settings = FitSettings(layers="auto", augment=("typos",), train=TrainSettings(epochs=1))
    fit_rows(model, tmp_path, rows(), None, settings)
    assert counts == [19]


@pytest.mark.parametrize(
    "more", [{"contexts": BEFORE}, {"augment": ("typos",)}], ids=["contexts", "copies"]
)
def test_the_labels_are_those_of_all_rows_whichever_are_held_back(
    model: LanguageModel, tmp_path: Path, more: dict[str, Any]
) -> None:
    """The only row of two labels was held back, and refused as one of a task of single ones."""
    names: list[list[str]] = [["abc"[i % 3]] for i in range(24)]
    names[_held_row(24)] = ["a", "b"]
    data = Rows.of([f"{''.join(own)} {i}" for i, own in enumerate(names)], names, "rows.jsonl")
    how = FitSettings(live=True, layers=(0, 1), train=TrainSettings(epochs=1), **more)
    (fitted,), _ = fit_rows(model, tmp_path, data, settings=how)
    assert fitted.artefact.card.task == "multilabel"


def _held_row(num_rows: int) -> int:
    """A row that is held back whether or not it has two labels."""
    for row in range(num_rows):
        marks = np.eye(3)[np.arange(num_rows) % 3]
        marks[row] = (1, 1, 0)
        if row in split_validation(marks, 0.2)[1]:
            return row
    raise AssertionError("no such row")


def test_copies_and_contexts_go_together(model: LanguageModel, tmp_path: Path) -> None:
    contexts = Contexts("c", "0" * 64, (as_conversation([{"role": "system", "content": "Hi."}]),))
    settings = FitSettings(contexts=contexts, augment=("typos",), train=TrainSettings(epochs=1))
    (best,), _ = fit_rows(model, tmp_path, rows(60), None, settings)
    data = best.artefact.card.data
    assert data.num_rows == 48 and sum(one.validation for one in data.labels) == 12
    assert sum(one.train for one in data.labels) == 48
