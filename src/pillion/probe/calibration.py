"""What a card says of calibration, and how it turns logits into probabilities.

Promises the numbers that were fitted, applied to any batch on any device. Does not know how they
were fitted, nor thresholds.
"""

from __future__ import annotations

from itertools import pairwise
from math import log
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pillion.core.strict import Strict
from pillion.probe.task import Task

MOST_LOGIT = log(1 - 1e-7) - log(1e-7)
"""Of an output that stands alone: calibrations and thresholds are chosen on fp32 probabilities, by
which logits beyond this one are not told apart (`pillion.metrics.thresholds.MIN_PROB`)."""


class Affine(Strict):
    """Logits are scaled and shifted before they become probabilities.

    `temperature` (Guo et al. 2017, section 4.2): `softmax(scale * logits)`, or the sigmoid; there
    are no offsets. `platt` (Platt 1999): `sigmoid(scale * logit + offset)`; for multi-class one
    against the rest, with logits that are log-probabilities, and divided by their sum (Zadrozny and
    Elkan 2002).

    Attributes:
        method: which of the two.
        scales: one an output, above 0; the same number in all for a multi-class temperature.
        offsets: one an output.
    """

    method: Literal["temperature", "platt"]
    scales: tuple[Annotated[float, Field(gt=0)], ...]
    offsets: tuple[float, ...]

    def fault(self, task: Task, num_outputs: int) -> str:
        """What does not fit a task with so many outputs; empty if all does."""
        if (len(self.scales), len(self.offsets)) != (num_outputs, num_outputs):
            return f"{len(self.scales)} scales and {len(self.offsets)} offsets"
        shared = self.method == "temperature" and task == "multiclass"
        if shared and len(set(self.scales)) > 1:
            return "different scales, where one temperature is meant,"
        is_shifted = self.method == "temperature" and any(self.offsets)
        return "offsets, which a temperature has not," if is_shifted else ""


class Isotonic(Strict):
    """A rising line of pieces from logit to probability (Zadrozny and Elkan 2002).

    Outside the outermost knots it is flat. For multi-class as with `platt`; where all are zero
    every label is as likely.

    Attributes:
        method: `isotonic`.
        logits: of the knots, rising, a tuple an output.
        probs: of the knots, from 0 to 1, not falling.
    """

    method: Literal["isotonic"] = "isotonic"
    logits: tuple[tuple[float, ...], ...]
    probs: tuple[tuple[float, ...], ...]

    def fault(self, task: Task, num_outputs: int) -> str:
        """What does not fit a task with so many outputs; empty if all does."""
        if (len(self.logits), len(self.probs)) != (num_outputs, num_outputs):
            return f"{len(self.logits)} lines"
        for logits, probs in zip(self.logits, self.probs, strict=True):
            if not logits or len(logits) != len(probs):
                return f"{len(logits)} logits and {len(probs)} probabilities of knots"
            if any(a >= b for a, b in pairwise(logits)) or any(a > b for a, b in pairwise(probs)):
                return "knots that do not rise"
            if not 0 <= probs[0] <= probs[-1] <= 1:
                return "probabilities beyond 0 to 1"
        return ""


Calibration = Annotated[Affine | Isotonic, Field(discriminator="method")]


class Calibrator:
    """Probabilities of logits by a card's calibration.

    Args:
        task: what the logits mean.
        calibration: of the card.
    """

    def __init__(self, task: Task, calibration: Affine | Isotonic) -> None:
        self.task, self.calibration = task, calibration
        self._normalise = task == "multiclass" and calibration.method != "temperature"
        numbers = (
            [calibration.scales, calibration.offsets]
            if isinstance(calibration, Affine)
            else [*calibration.logits, *calibration.probs]
        )
        # In float64: knots may lie closer than fp32 can tell. Made in a pass, they serve elsewhere.
        with torch.inference_mode(False):
            self._numbers = [torch.tensor(some, dtype=torch.float64) for some in numbers]

    def __call__(self, logits: Float[Tensor, "batch output"]) -> Float[Tensor, "batch output"]:
        """Calibrated probabilities in [0, 1], in fp32."""
        self._numbers = [some.to(logits.device) for some in self._numbers]
        if self.task != "multiclass":
            logits = logits.clamp(-MOST_LOGIT, MOST_LOGIT)
        if self._normalise:
            # Of multi-class logits only differences say something; one label alone needs a scale.
            logits = logits.double().log_softmax(-1)
        if isinstance(self.calibration, Isotonic):
            probs = self._interpolated(logits.double())
        else:
            scales, offsets = self._numbers
            probs = logits.double() * scales + offsets
            if self.task == "multiclass" and not self._normalise:
                return probs.softmax(-1).float()
            probs = probs.sigmoid()
        return (_shares(probs) if self._normalise else probs).float()

    def _interpolated(self, logits: Float[Tensor, "batch output"]) -> Float[Tensor, "batch output"]:
        count = logits.shape[1]
        lines = zip(self._numbers[:count], self._numbers[count:], strict=True)
        columns = [_interpolate(logits[:, i].contiguous(), *line) for i, line in enumerate(lines)]
        return torch.stack(columns, dim=-1)


def _interpolate(
    values: Float[Tensor, " batch"], x: Float[Tensor, " knot"], y: Float[Tensor, " knot"]
) -> Float[Tensor, " batch"]:
    if len(x) == 1:
        return torch.where(values.isnan(), values, y)
    right = torch.searchsorted(x, values).clamp(1, len(x) - 1)
    left = right - 1
    share = ((values - x[left]) / (x[right] - x[left])).clamp(0, 1)
    return y[left] + share * (y[right] - y[left])


def _shares(probs: Float[Tensor, "batch output"]) -> Float[Tensor, "batch output"]:
    total = probs.sum(-1, keepdim=True)
    return torch.where(total == 0, torch.ones_like(probs) / probs.shape[-1], probs / total)
