"""What trained networks say about a source, batch by batch, and how good that is.

Promises bounded memory and one read of the states for all networks. Does not know how the networks
were trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Num, Shaped
from torch import Tensor

from pillion.core.batching import batches_by_length
from pillion.extract import Progress, StateSource, silent
from pillion.metrics import evaluate
from pillion.metrics.classification import DEFAULT_THRESHOLD
from pillion.metrics.thresholds import f1_threshold
from pillion.probe import Network
from pillion.probe.network import inverse_rms_by_layer
from pillion.probe.task import Task, probabilities
from pillion.train.reading import read_batches

EVALUATION_TOKENS = 2048

CRITERION = "refinement"
"""What `score` is of: checkpoints and records of older runs may be of another."""

MIN_ROWS_A_SIDE = 50
"""Rows with and without a label below which its best threshold is chance: 0.5 stays."""


def evaluate_source(
    network: Network, source: StateSource, task: Task, max_tokens: int = EVALUATION_TOKENS
) -> Float[Tensor, "row output"]:
    """Probabilities of every row; see `evaluate_networks`."""
    return evaluate_networks([network], source, task, max_tokens)[0]


@torch.inference_mode()
def evaluate_networks(
    networks: Sequence[Network],
    source: StateSource,
    task: Task,
    max_tokens: int = EVALUATION_TOKENS,
    progress: Progress = silent,
) -> list[Float[Tensor, "row output"]]:
    """Probabilities of every row by every network, while each batch of states is read once.

    Args:
        networks: of this source's layers and width.
        source: of the states.
        task: what logits mean.
        max_tokens: padded tokens held at once; a longer row is held alone.
        progress: told of every batch, as stage `evaluate`.
    """
    batches = batches_by_length(source.lengths, max_tokens)
    device = next(networks[0].parameters()).device
    found = [torch.empty(len(source.lengths), n.shape.num_outputs) for n in networks]
    done, total = 0, sum(source.lengths)
    states = read_batches(source, batches, device)
    for row_ids, (hidden, mask) in zip(batches, states, strict=True):
        scale = shared_scale(networks, hidden)
        for network, probs in zip(networks, found, strict=True):
            network.eval()
            probs[row_ids] = probabilities(task, network(hidden, mask, scale)).cpu()
        done += sum(source.lengths[row_id] for row_id in row_ids)
        progress("evaluate", done, total)
    return found


def shared_scale(
    networks: Sequence[Network], hidden: Float[Tensor, "layer batch token dim"]
) -> Float[Tensor, "layer batch token"] | None:
    """1 / rms of every state, once for all networks that normalise; None if none does."""
    if any(getattr(network.settings, "normalise", False) for network in networks):
        return inverse_rms_by_layer(hidden)
    return None


def validate(
    task: Task,
    probs: Float[Tensor, "row output"],
    targets: Num[Tensor, " row"] | Num[Tensor, "row output"],
    goals: Num[Tensor, " row"] | Num[Tensor, "row output"] | None = None,
) -> dict[str, float | None]:
    """All metrics of `pillion.metrics.evaluate`, `log_loss` and `refinement` (nats a decision).

    The refinement is the log-loss that is left at the best temperature from 1 on: what does not
    come of being too sure.
    Rows of a single label choose no temperature, and probabilities want to be said as they are:
    theirs is the log-loss.

    Args:
        task: what targets mean.
        probs: of the network.
        targets: of the rows.
        goals: what the log-loss compares with, if not targets: probabilities.
    """
    found = evaluate(probs.numpy(), targets.cpu().numpy(), task)
    wanted = targets if goals is None else goals
    losses = [_log_loss(task, some, wanted) for some in _softened(task, probs.double())]
    mends = goals is None and len(targets[~targets.isnan()].unique()) > 1
    return {**found, "log_loss": losses[0], "refinement": min(losses) if mends else losses[0]}


def score(metrics: dict[str, float | None]) -> float:
    """What the best epoch is chosen by: minus the refinement, after Berta et al. 2025 (2501.19195).

    No threshold touches it, and it is defined where validation holds a single label. The log-loss
    itself also counts how sure a probe is, which grows with every epoch while it still learns to
    tell labels apart (`docs/log.md`, "Epochs by what calibration cannot mend").
    """
    lost = metrics[CRITERION]
    assert lost is not None
    return -lost


def choose_thresholds(
    task: Task,
    probs: Float[Tensor, "row output"],
    targets: Shaped[np.ndarray, "row ..."],
    times: int = 1,
) -> tuple[float, ...] | None:
    """The thresholds of best expected F1 on these (validation) rows.

    One an output: that of `f1_threshold`. None, which decides at one half, for multi-class and
    where some output has too few rows of either side to choose by.

    Args:
        task: what the outputs mean.
        probs: in [0, 1].
        targets: as `LabelSpace.encode` gives them; NaN where not judged.
        times: how often each row is among them.
    """
    if task == "multiclass" or not _can_tell(targets, times):
        return None
    found: list[float | None] = []
    for said, column in zip(probs.numpy().T, targets.reshape(len(targets), -1).T, strict=True):
        judged = ~np.isnan(column)
        found.append(f1_threshold(said[judged], column[judged]))
    return tuple(DEFAULT_THRESHOLD if line is None else line for line in found)


def _can_tell(targets: Shaped[np.ndarray, "row ..."], times: int) -> bool:
    """Whether every output has enough rows of either side."""
    columns = targets.reshape(len(targets), -1)
    positives, judged = (columns > 0).sum(0), (~np.isnan(columns)).sum(0)
    return bool(np.minimum(positives, judged - positives).min() >= times * MIN_ROWS_A_SIDE)


SCALES = np.geomspace(1 / 20, 1, 31)[:-1]
"""What logits are multiplied by in search of the best temperature. None is above 1: a probe that is
less sure than it could be has more to learn, and one that tells all rows apart would have nothing
that is better than its first epoch."""


def _softened(task: Task, probs: Float[Tensor, "row output"]) -> Iterator[Tensor]:
    """The probabilities as they are, then less and less sure."""
    safe = probs.clamp(1e-7, 1 - 1e-7)
    logits = safe.log() if task == "multiclass" else safe.logit()
    yield probs
    for scale in SCALES:
        yield probabilities(task, logits * scale).double()


def _log_loss(task: Task, probs: Tensor, targets: Tensor) -> float:
    targets = targets.cpu()
    safe = probs.clamp(1e-7, 1 - 1e-7)
    if task == "multiclass":
        return float(-safe.gather(1, targets.long()[:, None]).log().mean())
    wanted = targets.double().reshape(safe.shape)
    judged = ~wanted.isnan()
    return float(torch.nn.functional.binary_cross_entropy(safe[judged], wanted[judged]))
