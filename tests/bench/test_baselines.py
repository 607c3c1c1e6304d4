"""Every method on the shipped engine without weights: learns what is there, reads no test label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mood import accuracy, place_of, problem_of
from scipy.sparse import csr_matrix

from pillion.backends.fake import FakeBackend
from pillion.backends.transformers import TransformersBackend
from pillion.errors import ConvergenceError
from pillion.extract import LiveSource, pooled_source
from pillion.train import CRITERION
from pillion_bench.baselines import METHODS, lasso, make_method
from pillion_bench.baselines.logistic import Goal, fit_logistic, refit
from pillion_bench.baselines.los_net import signature
from pillion_bench.baselines.muli import fit_units, of_logits
from pillion_bench.baselines.prompting import NO_CONTENT, Asker
from pillion_bench.times import Clock, measure_times
from tiny_models import tiny_model, tiny_tokenizer

QUICK: dict[str, dict[str, Any]] = {
    "probe": {"learning_rate": 0.03, "train": {"epochs": 4}, "longest": 4},
    "auto": {"train": {"epochs": 4}},
    "best-layer": {"strengths": [0.1, 1.0]},
    "all-layers": {"strengths": [0.1]},
    "means": {},
    "lda": {},
    "ridge": {},
    "muli": {"penalties": [0.01]},
    "los-net": {
        "top_k": 50,
        "dim": 16,
        "heads": 2,
        "dropout": 0.0,
        "epochs": 25,
        "longest": 25,
        "batch_size": 8,
        "learning_rate": 5e-3,
    },
    "prompting": {},
    "tfidf": {"strengths": [1.0]},
    "length": {},
    "shuffled": {"of": "all-layers"},
}
"""What makes each method fast on a few rows; encoders and adapters have tests of their own."""

LEARNS = (
    "probe",
    "auto",
    "best-layer",
    "all-layers",
    "means",
    "lda",
    "ridge",
    "muli",
    "los-net",
    "tfidf",
)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("kind", QUICK)
@pytest.mark.parametrize("labels", [("fine", "poor"), ("fine", "poor", "so")], ids=len)
def test_a_method_gives_probabilities_of_every_row(
    tmp_path: Path, opened: ExitStack, kind: str, labels: tuple[str, ...]
) -> None:
    problem = problem_of(tmp_path, labels)
    place = place_of(tmp_path, opened, problem)
    method = make_method(kind, QUICK[kind], kind)
    assert method.why_not(problem, FakeBackend()) is None
    (outcome,) = method.fit(place, [0])
    assert problem.test is not None
    tested = outcome.ask(problem.test)
    for probs, part in ((outcome.validation, problem.validation), (tested, problem.test)):
        assert probs.shape == (len(part), problem.num_outputs)
        assert ((probs >= 0) & (probs <= 1 + 1e-6)).all()
        if problem.task == "multiclass":
            assert probs.sum(1) == pytest.approx(1, abs=1e-4)
    if kind in LEARNS:
        assert accuracy(outcome, problem) > 0.85
    if kind == "shuffled":
        assert accuracy(outcome, problem) < 0.8


@pytest.mark.parametrize("kind", QUICK)
def test_no_method_looks_at_test_labels(tmp_path: Path, opened: ExitStack, kind: str) -> None:
    problem = problem_of(tmp_path)
    assert problem.test is not None
    turned = replace(problem, test=replace(problem.test, targets=1 - problem.test.targets))
    found: list[np.ndarray] = []
    for one in (problem, turned):
        (outcome,) = make_method(kind, QUICK[kind], kind).fit(place_of(tmp_path, opened, one), [3])
        assert one.test is not None
        found.append(outcome.ask(one.test))
    assert np.array_equal(*found)


@pytest.mark.parametrize("kind", QUICK)
def test_a_seed_decides_and_another_one_differs_where_there_is_chance(
    tmp_path: Path, opened: ExitStack, kind: str
) -> None:
    place = place_of(tmp_path, opened, problem_of(tmp_path))
    method = make_method(kind, QUICK[kind], kind)
    seeds = [0, 1] if method.seeded else [0]
    asked = place.problem.test
    assert asked is not None
    first, again = list(method.fit(place, seeds)), list(method.fit(place, seeds))
    said = [one.ask(asked) for one in first]
    assert all(np.array_equal(a, b.ask(asked)) for a, b in zip(said, again, strict=True))
    if method.seeded and first[0].chosen.get("chosen") != "concat":  # a closed form has no chance
        assert not np.array_equal(*said)


@pytest.mark.parametrize("kind", QUICK)
def test_what_a_method_adds_while_a_text_is_served_can_be_measured(
    tmp_path: Path, opened: ExitStack, kind: str
) -> None:
    problem = problem_of(tmp_path)
    place = place_of(tmp_path, opened, problem)
    serving = make_method(kind, QUICK[kind], kind).serving(place)
    facts = measure_times(Clock(place.states, problem, 3), serving)
    assert facts["texts"] == 3 and facts["bare_ms"] > 0
    low, high = facts["quartiles_ms"]
    assert low <= facts["added_ms"] <= high
    assert serving.beside is not None or serving.after is not None


def test_a_grid_is_chosen_from_by_validation_alone(tmp_path: Path, opened: ExitStack) -> None:
    place = place_of(tmp_path, opened, problem_of(tmp_path))
    grid = {"learning_rate": [1e-5, 0.03], "num_heads": [1, 2]}
    method = make_method("probe", {**QUICK["probe"], "grid": grid}, "gate")
    first, second = method.fit(place, [0, 1])
    tried = first.chosen["tried"]
    assert len(tried) == 4
    best = max(tried, key=lambda one: (one["score"], -one["log_loss"]))
    assert first.chosen["learning_rate"] == best["learning_rate"]
    assert first.chosen["learning_rate"] == second.chosen["learning_rate"] == 0.03
    assert second.chosen["settings"] == first.chosen["settings"]


def test_a_grid_of_as_many_as_there_are_seeds_is_no_unfinished_run_of_them(
    tmp_path: Path, opened: ExitStack
) -> None:
    """Both left what they went on from in one folder, and the second refused the first's."""
    place = place_of(tmp_path, opened, problem_of(tmp_path))
    settings = {"train": {"epochs": 1}, "longest": 1, "grid": {"learning_rate": [1e-5, 0.03]}}
    first, second = make_method("probe", settings, "gate").fit(place, [0, 1])
    assert len(first.chosen["tried"]) == 2
    assert first.chosen["learning_rate"] == second.chosen["learning_rate"]


@pytest.mark.parametrize("kind", ["probe", "auto"])
def test_a_probe_names_what_its_epochs_are_chosen_by_where_they_are(kind: str) -> None:
    assert make_method(kind, {}, kind).rules == {"epochs_by": CRITERION}
    assert not make_method(kind, {"train": {"keep": "last"}}, kind).rules
    control = make_method("shuffled", {"of": kind}, "control")
    assert control.rules == {"epochs_by": CRITERION}
    assert not make_method("shuffled", {}, "control").rules


def test_cells_of_prompts_of_another_form_are_made_anew() -> None:
    """The bug: a run folder gave what examples inside the question had, without a word."""
    rules = make_method("prompting", {"shots": 2}, "few-shot").rules
    assert rules["examples"] == "turns" and rules["calibration"] == "by validation"


# --- formulas


def test_pooled_states_are_means_and_last_ones(tmp_path: Path) -> None:
    backend = FakeBackend()
    rows = [[1, 2, 3, 4], [5], [6, 7]]
    source = LiveSource(backend, rows, (0, 2))
    mean, last = (pooled_source(source, how).transpose(0, 1) for how in ("mean", "last"))
    for row in range(3):
        hidden, _ = source.read_batch([row])
        assert mean[row] == pytest.approx(hidden[:, 0].mean(1).numpy(), abs=1e-6)
        assert last[row] == pytest.approx(hidden[:, 0, -1].numpy(), abs=1e-6)
    assert not np.allclose(mean[0], last[0])


def test_log_odds_are_those_of_the_softmax_and_finite() -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0], [80.0, 0.0, 0.0]], dtype=torch.float64)
    probs = logits.softmax(-1)
    wanted = torch.log(probs) - torch.log(1 - probs)
    assert of_logits(logits)[0].tolist() == pytest.approx(wanted[0].tolist())
    assert bool(of_logits(logits.float()).isfinite().all())


def test_muli_is_at_the_optimum_of_its_loss() -> None:
    """By the optimality conditions over all features, most of which no solver has seen."""
    torch.manual_seed(1)
    shared = torch.randn(300, 20) @ torch.randn(20, 2000)
    features = (shared + torch.randn(300, 2000)).half()
    truth = (features[:, :3].float().sum(1) > 4).numpy().astype(float)
    (unit,) = fit_units(features, truth[:, None], 0.02)
    (again,) = fit_units(features, truth[:, None], 0.02, fit_units(features, truth[:, None], 0.1))

    weights = unit.dense(2000).requires_grad_()
    bias = torch.tensor(unit.bias, requires_grad=True)
    positive = torch.tensor((len(truth) - truth.sum()) / truth.sum())
    said = features.float() @ weights + bias
    loss = F.binary_cross_entropy_with_logits(
        said, torch.tensor(truth).float(), pos_weight=positive
    )
    loss.backward()
    steep, is_in = weights.grad, weights.detach() != 0
    assert steep is not None and bias.grad is not None
    assert 3 <= int(is_in.sum()) < 300
    assert float((steep[is_in] + 0.02 * weights.detach()[is_in].sign()).abs().max()) < 1e-3
    assert float(steep[~is_in].abs().max()) < 0.02 * 1.03
    assert float(bias.grad.abs()) < 1e-3
    assert torch.allclose(again.dense(2000), unit.dense(2000), atol=0.02)


def test_muli_that_cannot_get_to_its_optimum_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasso, "ROUNDS", 1)
    torch.manual_seed(1)
    features, truth = torch.randn(60, 400), (torch.rand(60) < 0.3).numpy().astype(float)
    with pytest.raises(ConvergenceError, match="not at its optimum"):
        fit_units(features, truth[:, None], 0.001)


def test_muli_chooses_by_folds_where_validation_rows_are_few(
    tmp_path: Path, opened: ExitStack
) -> None:
    place = place_of(tmp_path, opened, problem_of(tmp_path))
    (found,) = make_method("muli", {"penalties": [0.01, 0.1]}, "muli").fit(place, [0])
    assert found.chosen["penalty"] in map(float, found.chosen["tried"])
    assert all("spread" in one for one in found.chosen["tried"].values())


def test_a_signature_is_sorted_z_scored_and_knows_what_came() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, -2.0], [5.0, 0.0, 0.0, 0.0]])
    found = signature(logits, torch.tensor([2, 0]), 3)
    top = logits[0].log_softmax(-1).sort(descending=True).values[:3]
    wanted = (top - top.mean()) / top.std(correction=0)
    assert found.top[0].tolist() == pytest.approx(wanted.tolist(), abs=2e-3)
    assert found.actual[0, 0] == pytest.approx(float(logits[0].softmax(-1)[2]))
    assert found.actual[:, 1].tolist() == pytest.approx([2 * (0.5 - 1 / 4), 1.0])


def test_los_net_reads_only_behind_the_mark(tmp_path: Path, opened: ExitStack) -> None:
    method = make_method("los-net", {"after": "A:"}, "m")
    tokens = list(range(20))
    start = method._start  # type: ignore[attr-defined]
    assert start(FakeBackend(), "question A: answer", tokens) == len("question A:")
    assert start(FakeBackend(), "no mark", tokens) == 1


def test_los_net_finds_a_mark_in_raw_texts_alone(tmp_path: Path) -> None:
    """A chat template's tokens before the text moved the place, and other tokens were read."""
    problem = problem_of(tmp_path)
    raw, chat = (
        replace(problem, spec=problem.spec.model_copy(update={"template": one}))
        for one in ("raw", "chat")
    )
    marked = make_method("los-net", {"after": "A:"}, "m")
    assert marked.why_not(raw, FakeBackend()) is None
    assert "of raw texts alone" in (marked.why_not(chat, FakeBackend()) or "")
    assert make_method("los-net", {}, "m").why_not(chat, FakeBackend()) is None


def test_logistic_regression_knows_labels_that_no_row_has() -> None:
    features = np.array([[0.0], [1.0], [0.1], [0.9]])
    targets = np.array([0, 2, 0, 2])
    goal = Goal("multiclass", 4, "accuracy")
    model = fit_logistic((features, targets), (features, targets), goal)
    probs = model.predict(features)
    assert probs.shape == (4, 4) and probs[:, [1, 3]].max() == 0
    assert probs.argmax(1).tolist() == [0, 2, 0, 2]


def test_logistic_regression_of_one_label_is_a_constant() -> None:
    features, wanted = np.array([[0.0], [1.0]]), np.array([[1, 0], [1, 1]], dtype=np.float32)
    model = fit_logistic((features, wanted), (features, wanted), Goal("multilabel", 2, "f1"))
    assert model.predict(features)[:, 0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("matrix", [np.asarray, csr_matrix], ids=["dense", "sparse"])
def test_logistic_regression_fitted_again_is_that_of_all_rows(matrix: Any) -> None:
    chance = np.random.default_rng(0)
    features = chance.normal(size=(60, 3))
    targets = (features[:, 0] + chance.normal(size=60) > 0).astype(int)
    train, held = ((matrix(features[part]), targets[part]) for part in (slice(40), slice(40, 60)))
    goal = Goal("binary", 1, "auprc")
    chosen = fit_logistic(train, held, goal)
    again = refit(chosen, train, held)
    every = (matrix(features), targets)
    whole = fit_logistic(every, every, goal, (chosen.strength,))
    assert again.predict(every[0]) == pytest.approx(whole.predict(every[0]), abs=1e-3)
    assert again.predict(every[0]) != pytest.approx(chosen.predict(every[0]), abs=1e-3)
    assert (again.strength, again.facts) == (chosen.strength, chosen.facts)


@pytest.mark.parametrize("kind", ["all-layers", "best-layer", "tfidf", "probe"])
def test_a_refit_changes_what_is_said_of_the_test_and_not_of_validation(
    kind: str, tmp_path: Path, opened: ExitStack
) -> None:
    problem = problem_of(tmp_path)
    again: dict[str, Any] = {**QUICK[kind], "refit": True}
    if kind == "probe":
        again = {**QUICK[kind], "train": {"epochs": 4, "refit": True}}
    (plain,), (other,) = (
        make_method(kind, settings, "m").fit(place_of(tmp_path / name, opened, problem), [0])
        for name, settings in (("plain", QUICK[kind]), ("again", again))
    )
    np.testing.assert_array_equal(plain.validation, other.validation)
    assert problem.test is not None
    assert not np.allclose(plain.ask(problem.test), other.ask(problem.test))


# --- prompting


def test_label_names_that_begin_alike_cannot_be_answers(tmp_path: Path) -> None:
    problem = problem_of(tmp_path)
    alike = replace(problem, space=replace(problem.space, names=("poor", "pure")))
    reason = make_method("prompting", {}, "m").why_not(alike, FakeBackend())
    assert reason is not None and "begin with the same token (p, p)" in reason


def test_many_labels_do_not_fit_a_prompt(tmp_path: Path) -> None:
    problem = problem_of(tmp_path)
    many = replace(problem.space, names=tuple(map(str, range(30))), task="multiclass")
    reason = make_method("prompting", {}, "m").why_not(replace(problem, space=many), FakeBackend())
    assert reason == "30 label names do not fit a prompt (20 at most)."


def test_shots_are_training_rows_of_every_label(tmp_path: Path, opened: ExitStack) -> None:
    problem = problem_of(tmp_path)
    backend = FakeBackend(context_tokens=2000)
    method = make_method("prompting", {"shots": 2}, "m")
    shots = method._shots(backend, problem, 0)  # type: ignore[attr-defined]
    assert sorted(label for _, label in shots) == ["fine", "fine", "poor", "poor"]
    rows = list(zip(problem.train.texts, problem.train.targets, strict=True))
    assert all((text, problem.space.names.index(label)) in rows for text, label in shots)


def test_what_a_prompt_makes_likely_is_divided_out_as_validation_rows_choose(
    tmp_path: Path, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bug: few examples, divided by a text without content, did worse than chance."""
    problem = problem_of(tmp_path)
    part = problem.validation

    def ask(asker: Asker, texts: Sequence[str], *_: object) -> torch.Tensor:
        """The first label is always likelier; without content the second is, by far."""
        if list(texts) == [NO_CONTENT]:
            return torch.tensor([[-9.0, -0.1]])
        of = dict(zip(part.texts, part.targets.tolist(), strict=True))
        return torch.tensor([[-0.1, -1.0 if of[text] else -3.0] for text in texts])

    monkeypatch.setattr(Asker, "ask", ask)
    method = make_method("prompting", {}, "m")
    (outcome,) = method.fit(place_of(tmp_path, opened, problem), [0])
    assert outcome.chosen["calibration"] == "mean of texts"
    assert outcome.chosen["tried"].keys() == {"none", "without content", "mean of texts"}
    assert ((outcome.validation[:, 0] >= 0.5) == part.targets).all()
    np.testing.assert_array_equal(outcome.ask(part), outcome.validation)


# --- adapters


def test_lora_learns_and_leaves_the_model_as_it_was(tmp_path: Path, opened: ExitStack) -> None:
    pytest.importorskip("peft")
    backend = TransformersBackend(tiny_model("llama"), tiny_tokenizer(), "tiny")
    before = {name: p.clone() for name, p in backend.model.state_dict().items()}
    problem = problem_of(tmp_path)
    settings = {"rank": 4, "epochs": 6, "learning_rate": 0.02}
    method = make_method("lora", settings, "lora")
    (outcome,) = method.fit(place_of(tmp_path, opened, problem, backend), [0])
    assert accuracy(outcome, problem) > 0.85
    total = sum(p.numel() for p in backend.model.parameters())
    assert 0 < outcome.parameters < total
    after = backend.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_lora_is_for_models_of_transformers(tmp_path: Path) -> None:
    reason = make_method("lora", {}, "lora").why_not(problem_of(tmp_path), FakeBackend())
    assert reason == "LoRA adapts models of transformers, and FakeBackend is none."


def test_every_kind_is_tested() -> None:
    assert METHODS.keys() == {*QUICK, "embeddings", "classifier", "lora", "setfit"}
