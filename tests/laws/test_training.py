"""The laws of training: seeds decide, companions do not, and an interruption changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from marked_rows import marked_rows
from pillion.backends.fake import FakeBackend
from pillion.cache import Workspace
from pillion.core import Shape, defaults
from pillion.errors import ConfigError, DataError, Interrupted, StateError, StorageError
from pillion.extract import CachedSource, LiveSource, StateSource, extract
from pillion.extract.source import Batch
from pillion.metrics import evaluate
from pillion.probe import AGGREGATORS, Network
from pillion.probe.task import Task
from pillion.train import Examples, ProbeConfig, Trained, TrainSettings, evaluate_source, train
from pillion.train import run as training_run
from pillion.train.evaluate import validate
from pillion.train.learner import Learner, MicroBatch
from pillion.train.order import epoch_batches
from tiny_models import SMALL

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = (0, 1, 3)
SETTINGS = TrainSettings(epochs=3, batch_size=8, max_tokens=64)
each_probe = pytest.mark.parametrize("probe", AGGREGATORS)


def config(probe: str = "gate", seed: int = 0, **settings: Any) -> ProbeConfig:
    return ProbeConfig(
        probe=probe, settings={**SMALL.get(probe, {}), **settings}, learning_rate=0.01, seed=seed
    )


def token_rows(num_rows: int, seed: int = 0) -> tuple[list[list[int]], np.ndarray]:
    """Rows of bytes below 50, half of which hold one byte above; that is the positive label."""
    return marked_rows(num_rows, seed, tokens=(1, 12))


def live(num_rows: int = 40, seed: int = 0) -> Examples:
    rows, targets = token_rows(num_rows, seed)
    return Examples(LiveSource(FakeBackend(), rows, LAYERS), targets)


def run(
    configs: Sequence[ProbeConfig], settings: TrainSettings = SETTINGS, **more: Any
) -> list[Trained]:
    return train(live(), live(20, seed=1), "binary", 2, configs, settings, **more)


def equal(one: Trained, other: Trained) -> bool:
    return same_weights(one.network, other.network)


def same_weights(one: Network, other: Network) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Interrupting(LiveSource):
    """Behaves as if Ctrl-C were pressed in its n-th read."""

    def __init__(self, source: LiveSource, reads: int) -> None:
        super().__init__(source.backend, source.token_ids, source.layers)
        self.reads = reads

    def read_batch(self, row_ids: Sequence[int], workspace: Workspace | None = None) -> Batch:
        self.reads -= 1
        if self.reads < 0:
            raise KeyboardInterrupt
        return super().read_batch(row_ids, workspace)


def interrupted(reads: int) -> Examples:
    """`live`, where Ctrl-C is pressed behind so many reads."""
    rows = live()
    assert isinstance(rows.source, LiveSource)
    return Examples(Interrupting(rows.source, reads), rows.targets)


def resumed(
    folder: Path, reads: int, configs: Sequence[ProbeConfig], settings: TrainSettings = SETTINGS
) -> list[Trained]:
    """`run`, the second time: Ctrl-C has ended the first one behind so many reads."""
    stopping, held = interrupted(reads), live(20, seed=1)
    with pytest.raises(Interrupted, match="the same command resumes it"):
        train(stopping, held, "binary", 2, configs, settings, checkpoint=folder)
    return run(configs, settings, checkpoint=folder)


@each_probe
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(probe: str) -> None:
    first, again, other = (run([config(probe, seed)])[0] for seed in (0, 0, 1))
    assert equal(first, again)
    assert not equal(first, other)
    assert first.curve == again.curve


def test_another_order_of_rows_gives_other_weights() -> None:
    ordered = run([config()], SETTINGS.model_copy(update={"order_seed": 1}))[0]
    assert not equal(ordered, run([config()])[0])


def test_training_leaves_the_random_state_as_it_was() -> None:
    before = torch.random.get_rng_state()
    run([config("mha", dropout=0.3)])
    assert torch.equal(before, torch.random.get_rng_state())


@each_probe
def test_a_configuration_learns_the_same_whoever_trains_beside_it(probe: str) -> None:
    dropping = {"dropout": 0.3} if probe == "mha" else {}
    alone = run([config(probe, **dropping)])[0]
    companions = [config("mha", 5, dropout=0.5), config(probe, **dropping), config("gate", 7)]
    assert equal(alone, run(companions)[1])


def test_a_configuration_that_stops_early_does_not_disturb_the_others() -> None:
    settings = SETTINGS.model_copy(update={"epochs": 6, "patience": 1})
    hopeless = config("pooling").model_copy(update={"learning_rate": 1e-12})
    first, second = run([hopeless, config()], settings)
    assert len(first.curve) == 2
    assert equal(second, run([config()], settings)[0])


@pytest.mark.parametrize("reads", [0, 3, 9, 14, 21])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, reads: int
) -> None:
    configs = [config(), config("mha", dropout=0.3)]
    for one, other in zip(resumed(tmp_path, reads, configs), run(configs), strict=True):
        assert equal(one, other)
        assert one.curve == other.curve
        assert one.best_epoch == other.best_epoch


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = run([config()], checkpoint=tmp_path)[0]
    again = train(
        interrupted(0), live(20, seed=1), "binary", 2, [config()], SETTINGS, checkpoint=tmp_path
    )
    assert equal(first, again[0])


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    run([config()], checkpoint=tmp_path)
    with pytest.raises(ConfigError, match="other data, settings or configurations"):
        run([config(seed=1)], checkpoint=tmp_path)


def test_a_checkpoint_whose_epochs_another_criterion_chose_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its best epoch was the other's, in silence."""
    monkeypatch.setattr(training_run, "CRITERION", "log_loss")
    run([config()], checkpoint=tmp_path / "best")
    last = SETTINGS.model_copy(update={"keep": "last"})
    kept = run([config()], last, checkpoint=tmp_path / "last")[0]
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="another version of pillion"):
        run([config()], checkpoint=tmp_path / "best")
    assert equal(kept, run([config()], last, checkpoint=tmp_path / "last")[0])


def test_a_checkpoint_of_other_states_of_the_same_rows_is_refused(tmp_path: Path) -> None:
    run([config()], checkpoint=tmp_path, states="one")
    run([config()], checkpoint=tmp_path, states="one")
    with pytest.raises(ConfigError, match="of another model"):
        run([config()], checkpoint=tmp_path, states="other")


def test_a_broken_checkpoint_is_refused(tmp_path: Path) -> None:
    run([config()], checkpoint=tmp_path)
    (tmp_path / "training.safetensors").write_bytes(b"no tensors")
    with pytest.raises(StorageError, match="delete it to start anew"):
        run([config()], checkpoint=tmp_path)


def test_an_interruption_without_a_checkpoint_says_that_nothing_was_kept() -> None:
    with pytest.raises(Interrupted, match="nothing was kept"):
        train(interrupted(2), live(20), "binary", 2, [config()], SETTINGS)


def test_a_refit_learns_from_validation_rows_too_and_says_of_them_what_it_said_before() -> None:
    refit = SETTINGS.model_copy(update={"refit": True})
    configs = [config(), config("mha", dropout=0.3)]
    plain, again = run(configs), run(configs, refit)
    for before, after in zip(plain, again, strict=True):
        assert same_weights(after.unbiased, before.network)
        assert (after.curve, after.best_epoch) == (before.curve, before.best_epoch)
        assert not same_weights(after.network, before.network)
        assert equal(after, run([after.config], refit)[0])


def test_a_refit_is_a_training_on_all_rows_for_as_many_epochs_as_were_best() -> None:
    """Best in the last epoch: then it is nothing else than a plain training on all rows."""
    refit = SETTINGS.model_copy(update={"refit": True, "epochs": 2})
    (again,) = run([config()], refit)
    assert again.best_epoch == 2
    rows, others = token_rows(40), token_rows(20, seed=1)
    every = Examples(
        LiveSource(FakeBackend(), rows[0] + others[0], LAYERS), np.append(rows[1], others[1])
    )
    settings = SETTINGS.model_copy(update={"epochs": 2})
    (plain,) = train(every, live(20, seed=1), "binary", 2, [config()], settings)
    assert plain.best_epoch == 2
    for name, weight in plain.network.state_dict().items():
        torch.testing.assert_close(again.network.state_dict()[name], weight, rtol=1e-2, atol=1e-3)


def test_a_refit_keeps_the_rows_a_step_that_the_rate_is_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All rows together may be no longer few: steps of 32 would come at the rate of steps of 8."""
    monkeypatch.setattr(defaults, "FEW_ROWS", 50)
    usual = SETTINGS.model_copy(update={"refit": True, "batch_size": None})
    given = usual.model_copy(update={"batch_size": defaults.STEP_ROWS_OF_FEW})
    assert usual.rows_a_step(40) == given.batch_size != usual.rows_a_step(60)
    assert equal(run([config()], usual)[0], run([config()], given)[0])


@pytest.mark.parametrize("reads", [3, 16, 21, 30])
def test_an_interrupted_refit_goes_on_where_it_was(tmp_path: Path, reads: int) -> None:
    refit = SETTINGS.model_copy(update={"refit": True})
    (again,) = resumed(tmp_path, reads, [config()], refit)
    assert equal(again, run([config()], refit)[0])


def test_nothing_is_fitted_again_where_no_row_was_held_out() -> None:
    rows = live()
    refit = SETTINGS.model_copy(update={"refit": True})
    (trained,) = train(rows, rows, "binary", 2, [config()], refit)
    assert trained.network is trained.unbiased


LONGER = SETTINGS.model_copy(update={"epochs": 1, "longest": 8})
HOPELESS = config("pooling").model_copy(update={"learning_rate": 1e-12})
"""No epoch of it is better than its first: it asks for no more of them."""


def epochs_tried(configs: list[ProbeConfig], settings: TrainSettings = LONGER) -> list[int]:
    return [one.epochs for one in run(configs, settings)]


def test_a_configuration_whose_last_epoch_is_its_best_is_trained_for_twice_as_many() -> None:
    (found,) = run([config()], LONGER)
    plain = {
        epochs: run([config()], SETTINGS.model_copy(update={"epochs": epochs}))[0]
        for epochs in (1, 2, 4, 8)
    }
    losses = {
        epochs: min(loss for one in trained.curve if (loss := one["refinement"]) is not None)
        for epochs, trained in plain.items()
    }
    assert found.epochs == min(losses, key=lambda epochs: losses[epochs]) > 1
    assert equal(found, plain[found.epochs])
    assert found.curve == plain[found.epochs].curve


@pytest.mark.parametrize("longest", [1, 2, 3, 4])
def test_no_more_epochs_are_tried_than_are_allowed(longest: int) -> None:
    settings = LONGER.model_copy(update={"longest": longest})
    assert epochs_tried([config()], settings) == [{1: 1, 2: 2, 3: 2, 4: 4}[longest]]


def test_each_configuration_decides_for_itself_how_long_it_is_trained() -> None:
    settings = LONGER.model_copy(update={"epochs": 4, "patience": 8, "refit": True})
    configs = [HOPELESS, config(), config("mha", dropout=0.3)]
    found = run(configs, settings)
    assert found[0].epochs < max(one.epochs for one in found)
    for one in found:
        assert equal(one, run([one.config], settings)[0])


def test_nothing_is_trained_longer_where_nothing_chooses() -> None:
    assert epochs_tried([config()], LONGER.model_copy(update={"keep": "last"})) == [1]
    rows = live()
    assert train(rows, rows, "binary", 2, [config()], LONGER)[0].epochs == 1


@pytest.mark.parametrize("reads", [3, 8, 14, 30, 60])
def test_an_interrupted_longer_run_goes_on_where_it_was(tmp_path: Path, reads: int) -> None:
    settings = LONGER.model_copy(update={"refit": True})
    (again,) = resumed(tmp_path, reads, [config()], settings)
    assert again.epochs > 1
    assert equal(again, run([config()], settings)[0])


def test_what_an_older_run_without_longer_ones_left_goes_on(tmp_path: Path) -> None:
    run([config()], SETTINGS, checkpoint=tmp_path)
    longer = SETTINGS.model_copy(update={"longest": 3})
    training = live()
    assert isinstance(training.source, LiveSource)
    untouchable = Examples(Interrupting(training.source, 0), training.targets)
    (again,) = train(
        untouchable, live(20, seed=1), "binary", 2, [config()], longer, checkpoint=tmp_path
    )
    assert equal(again, run([config()])[0])


def test_the_progress_of_a_longer_run_is_a_stage_of_its_own() -> None:
    stages: dict[str, int] = {}

    def progress(stage: str, done: int, total: int, metric: float | None = None) -> None:
        assert done <= total
        stages[stage] = total

    run([config()], LONGER.model_copy(update={"longest": 2}), progress=progress)
    tokens = sum(live().source.lengths)
    assert stages == {"train": tokens, "train, 2 epochs": 2 * tokens}


@each_probe
def test_a_live_pass_and_a_cache_train_the_same_probe(probe: str, tmp_path: Path) -> None:
    rows, targets = token_rows(40)
    with extract(FakeBackend(), rows, LAYERS, tmp_path / "cache", "key") as reader:
        cached = Examples(CachedSource(reader), targets)
        one = train(cached, live(20, seed=1), "binary", 2, [config(probe)], SETTINGS)[0]
    other = run([config(probe)])[0]
    for name, weight in one.network.state_dict().items():
        torch.testing.assert_close(weight, other.network.state_dict()[name], rtol=1e-2, atol=1e-3)


def test_a_step_in_pieces_is_the_step_as_a_whole() -> None:
    whole = run([config()], SETTINGS.model_copy(update={"max_tokens": 10_000}))[0]
    pieces = run([config()], SETTINGS.model_copy(update={"max_tokens": 12}))[0]
    for name, weight in whole.network.state_dict().items():
        torch.testing.assert_close(weight, pieces.network.state_dict()[name], rtol=1e-2, atol=1e-3)


def labelled(task: Task, num_rows: int, seed: int) -> Examples:
    """Rows whose labels are the bytes above 99 that they hold."""
    rows, _ = token_rows(num_rows, seed)
    held = np.array([[byte in row for byte in (100, 101, 102)] for row in rows])
    targets: dict[str, np.ndarray] = {
        "binary": held[:, 0].astype(np.int64),
        "multiclass": np.where(held.any(1), held.argmax(1) + 1, 0).astype(np.int64),
        "multilabel": held.astype(np.float32),
    }
    return Examples(LiveSource(FakeBackend(), rows, LAYERS), targets[task])


@pytest.mark.parametrize("weights", ["none", "balanced"])
@pytest.mark.parametrize(
    ("task", "num_labels"), [("binary", 2), ("multiclass", 4), ("multilabel", 3)]
)
def test_separable_data_is_fitted(task: Task, num_labels: int, weights: Any) -> None:
    settings = TrainSettings(epochs=10, batch_size=8, class_weights=weights)
    sure = ProbeConfig(settings={"num_heads": 4}, learning_rate=0.05, weight_decay=0.0)
    training, held_out = labelled(task, 240, 0), labelled(task, 60, 1)
    trained = train(training, held_out, task, num_labels, [sure], settings)[0]
    probs = evaluate_source(trained.network, held_out.source, task)
    auroc = evaluate(probs.numpy(), held_out.targets, task)["auroc"]
    assert auroc is not None
    assert auroc > 0.99


def test_the_best_epochs_weights_are_kept() -> None:
    trained = run([config()], TrainSettings(epochs=5, batch_size=8))[0]
    validation = live(20, seed=1)
    probs = evaluate_source(trained.network, validation.source, "binary")
    found = validate("binary", probs, torch.as_tensor(validation.targets))["refinement"]
    losses = [epoch["refinement"] for epoch in trained.curve]
    assert found == losses[trained.best_epoch - 1] == min(n for n in losses if n is not None)


def test_the_last_epochs_weights_are_kept_where_epochs_are_not_chosen() -> None:
    other = live(20, seed=1)
    # The more is learnt, the worse it is on rows that are labelled the other way round.
    turned = Examples(other.source, 1 - other.targets)

    def trained(**options: Any) -> Trained:
        settings = TrainSettings(epochs=5, batch_size=8, patience=1, **options)
        return train(live(), turned, "binary", 2, [config()], settings)[0]

    last, best = trained(keep="last"), trained(keep="best")
    probs = evaluate_source(last.network, turned.source, "binary")
    found = validate("binary", probs, torch.as_tensor(turned.targets))["log_loss"]
    assert len(last.curve) == last.best_epoch == 5
    assert found == last.curve[-1]["log_loss"]
    assert best.best_epoch < 5


def test_few_rows_are_learnt_by_default() -> None:
    training, held_out = labelled("multiclass", 60, 0), labelled("multiclass", 60, 1)
    sure = ProbeConfig(settings={"num_heads": 4}, learning_rate=0.05, weight_decay=0.0)

    def accuracy(settings: TrainSettings) -> float:
        trained = train(training, held_out, "multiclass", 4, [sure], settings)[0]
        probs = evaluate_source(trained.network, held_out.source, "multiclass")
        found = evaluate(probs.numpy(), held_out.targets, "multiclass")["accuracy"]
        assert found is not None
        return found

    assert accuracy(TrainSettings().for_rows(60, 60)) > 0.9
    assert accuracy(TrainSettings(epochs=4)) < 0.8


def test_progress_counts_every_token_of_every_epoch() -> None:
    told: list[tuple[str, int, int]] = []
    run(
        [config()],
        progress=lambda stage, done, total, metric=None: told.append((stage, done, total)),
    )
    tokens = sum(live().source.lengths)
    assert told[-1] == ("train", 3 * tokens, 3 * tokens)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


class Broken:
    """States that are no numbers."""

    layers, dim, reads_ahead = LAYERS, 16, False

    def __init__(self, source: StateSource) -> None:
        self.source, self.lengths = source, source.lengths

    def read_batch(self, row_ids: Sequence[int], workspace: Workspace | None = None) -> Batch:
        hidden, mask = self.source.read_batch(row_ids)
        return torch.full_like(hidden, torch.nan), mask


def test_a_loss_that_is_not_finite_names_the_configuration_and_the_step() -> None:
    training = live()
    broken = Examples(Broken(training.source), training.targets)
    with pytest.raises(StateError, match=r"'gate' \(learning rate 0.01, seed 3\).* step 1;"):
        train(broken, live(20), "binary", 2, [config(seed=3)], SETTINGS)


def test_a_run_needs_a_configuration_and_a_label_a_row() -> None:
    with pytest.raises(ConfigError, match="at least one configuration"):
        run([])
    with pytest.raises(DataError, match="39 labels for 40 rows"):
        Examples(live().source, np.zeros(39, dtype=np.int64))


def test_a_checkpoint_of_the_same_rows_under_other_labels_is_refused(tmp_path: Path) -> None:
    """It went on with the labels of before, in silence."""
    run([config()], checkpoint=tmp_path)
    examples = live()
    turned = Examples(examples.source, 1 - examples.targets)
    with pytest.raises(ConfigError, match="of other data"):
        train(turned, live(20, seed=1), "binary", 2, [config()], SETTINGS, checkpoint=tmp_path)
    held = live(20, seed=1)
    other = Examples(held.source, 1 - held.targets)
    with pytest.raises(ConfigError, match="of other data"):
        train(live(), other, "binary", 2, [config()], SETTINGS, checkpoint=tmp_path)


def test_every_epoch_has_its_own_order_and_holds_every_row() -> None:
    lengths = [length % 7 + 1 for length in range(60)]
    orders = [epoch_batches(lengths, 8, seed, epoch) for seed in (0, 1) for epoch in range(3)]
    for order in orders:
        assert sorted(row for batch in order for row in batch) == list(range(60))
    assert len({str(order) for order in orders}) == 6
    members = [{frozenset(batch) for batch in order} for order in orders[:3]]
    assert members[0] != members[1] != members[2]


def one_step(learner: Learner, step: int, **weights: Any) -> MicroBatch:
    """Two rows of random states, the same whatever the step."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 2, 40, 16, generator=generator)
    mask = torch.ones(2, 40, dtype=torch.bool)
    part = MicroBatch(hidden, mask, None, torch.tensor([0.0, 1.0]), 0.5)
    learner.accumulate(part, "binary", torch.ones(2), step)
    return part


def test_each_step_drops_other_components() -> None:
    """One seed for all steps would never show a probe the components that it drops."""

    def gradient(step: int) -> torch.Tensor:
        learner = Learner.start(config("mha", dropout=0.5), Shape(3, 16, 1), torch.device("cpu"))
        one_step(learner, step)
        return torch.cat(
            [p.grad.flatten() for p in learner.network.parameters() if p.grad is not None]
        )

    assert torch.equal(gradient(0), gradient(0))
    assert not torch.equal(gradient(0), gradient(1))


def test_the_weights_that_are_kept_are_a_running_mean_of_those_of_the_steps() -> None:
    learner = Learner.start(config(), Shape(3, 16, 1), torch.device("cpu"))
    mean = [p.detach().clone() for p in learner.network.parameters()]
    for step in range(1, 31):
        one_step(learner, step)
        learner.step(1.0)
        kept = min(0.998, step / (step + 9))
        now = learner.network.parameters()
        mean = [kept * m + (1 - kept) * n.detach() for m, n in zip(mean, now, strict=True)]
    learner.note({}, 0.7)
    for wanted, got, now in zip(
        mean, learner.best.values(), learner.network.parameters(), strict=True
    ):
        torch.testing.assert_close(got, wanted)
        assert not torch.allclose(got, now, atol=1e-4)


def test_each_member_learns_from_a_loss_of_its_own() -> None:
    """On one loss of their mean, members would share a gradient and end as one."""
    learner = Learner.start(config(members=3), Shape(3, 16, 1), torch.device("cpu"))
    part = one_step(learner, 0)
    with torch.no_grad():
        losses = part.losses(learner.network, "binary", torch.ones(2))
        votes = learner.network.votes(part.hidden, part.mask)
    assert losses.shape == (3, 2)
    each = [
        torch.nn.functional.binary_cross_entropy_with_logits(
            vote[:, 0], part.targets, reduction="none"
        )
        for vote in votes
    ]
    torch.testing.assert_close(losses, torch.stack(each))
    assert learner.loss_sum == pytest.approx(float(losses.mean()), rel=1e-5)
    together = torch.nn.functional.binary_cross_entropy_with_logits(
        votes.mean(0)[:, 0], part.targets
    )
    assert abs(float(losses.mean()) - float(together)) > 1e-6
