"""Why a verdict: what each token and layer added to the logits of one text.

Exact where a network is `additive` (gates, poolings, attention): then what
tokens and layers added, plus the bias, is the logit. Elsewhere gradient x input, marked as
approximate: `sum_d x_d dlogit/dx_d` of each state x, its RMS norm held fixed (Simonyan et al. 2013;
Shrikumar et al. 2016). Knows no engine, no colours and no HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pillion.core import OnTooLong, Segment, Template, TextLike, Tokens, Verdict, absent
from pillion.core.arithmetic import as_given
from pillion.errors import DataError
from pillion.probe import Artefact, Network
from pillion.probe.network import inverse_rms_by_layer
from pillion.runtime.attach import ProbeLike, checked
from pillion.runtime.chunked_passes import ChunkedPasses
from pillion.runtime.decoding import Detokenizer
from pillion.runtime.encoding import encode_rows
from pillion.runtime.language_model import LanguageModel
from pillion.runtime.scope_masks import read_mask
from pillion.runtime.values import ValueKeeper

Method = Literal["exact", "gradient x input"]


@dataclass(frozen=True, eq=False)
class Explanation:
    """One text's verdict, taken apart.

    Law: `contributions` summed over layers and tokens, plus `rest`, are the `logits`.

    Attributes:
        verdict: what the probe says of the text.
        method: `exact`, or `gradient x input`, which is approximate.
        tokens: the text of each token; empty for a special token or a part of a character.
        token_ids: the tokens.
        layers: the layers that the probe reads.
        labels: of the logits: the positive label of a binary probe, else all labels.
        logits: one a label, before calibration.
        rest: what no token added: the bias where the method is exact.
        contributions: what each token at each layer added to each logit.
        softmax: whether the labels share a softmax, which sees only how logits differ.
        segments: the turns of the tokens; none for a text without turns.
    """

    verdict: Verdict
    method: Method
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    layers: tuple[int, ...]
    labels: tuple[str, ...]
    logits: tuple[float, ...]
    rest: tuple[float, ...]
    contributions: Float[np.ndarray, "layer token label"]
    softmax: bool
    segments: tuple[Segment, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the contributions are no approximation."""
        return self.method == "exact"

    def places(self, template: bool = False) -> list[int]:
        """The tokens of the turns, in order; the template's too where they are asked for."""
        if template or not self.segments:
            return list(range(len(self.tokens)))
        return [place for one in self.segments for place in range(one.begin, one.end)]

    def to(self, label: str) -> Float[np.ndarray, "layer token"]:
        """What each token at each layer added for one label.

        With a softmax: to its logit, more than to the mean of all labels' logits. For the negative
        label of a binary probe, which has no logit: to the positive one's, with the sign turned.
        """
        return self._for(label, self.contributions)

    def logit(self, label: str) -> float:
        """The logit of a label in the sense of `to`, whose sum it is, with `rest_of`."""
        return float(self._for(label, np.array(self.logits)))

    def rest_of(self, label: str) -> float:
        """What no token added, in the sense of `to`."""
        return float(self._for(label, np.array(self.rest)))

    def _for(self, label: str, values: Float[np.ndarray, "*any label"]) -> np.ndarray:
        if label not in self.labels:
            return np.asarray(-values[..., 0])
        own = values[..., self.labels.index(label)]
        return np.asarray(own - values.mean(-1) if self.softmax else own)

    def as_json(self) -> dict[str, Any]:
        """Of JSON's types; `contributions` are label -> layer -> token."""
        by_label = self.contributions.transpose(2, 0, 1).round(6).tolist()
        return {
            "probe": self.verdict.probe,
            "label": self.verdict.label,
            "probs": dict(self.verdict.probs),
            "method": self.method,
            "exact": self.exact,
            "softmax": self.softmax,
            "tokens": list(self.tokens),
            "token_ids": list(self.token_ids),
            "layers": list(self.layers),
            "labels": list(self.labels),
            "logits": dict(zip(self.labels, self.logits, strict=True)),
            "rest": dict(zip(self.labels, self.rest, strict=True)),
            "contributions": dict(zip(self.labels, by_label, strict=True)),
            "segments": [asdict(segment) for segment in self.segments],
        }


def explain(
    model: LanguageModel,
    probe: ProbeLike,
    text: TextLike,
    template: Template | None = None,
    on_too_long: OnTooLong = "error",
    allow_mismatch: bool = False,
) -> Explanation:
    """What each token and layer of a text added to a probe's logits, from one pass.

    Args:
        model: the language model.
        probe: an artefact, its folder, or a `pillion.Probe`.
        text: the text, or a conversation.
        template: how it is wrapped; None: as the probe was trained.
        on_too_long: what happens to a text beyond the context window.
        allow_mismatch: only warn of a probe trained on other weights or another template.

    Raises:
        DataError: a text that is empty, too long, or without a turn of the probe's scope.
        MismatchError: the probe belongs to another model.
    """
    artefact = checked(model.backend, probe, allow_mismatch)
    how = template or artefact.card.template
    (row,) = encode_rows(model.backend, [text], how, on_too_long, scopes=[artefact.card.scope])
    return explain_row(model, artefact, row)


def explain_row(
    model: LanguageModel, artefact: Artefact, row: Tokens, passes: ChunkedPasses | None = None
) -> Explanation:
    """What each token and layer of a row added to a probe's logits.

    Args:
        model: the language model.
        artefact: a probe of it.
        row: tokens of a text or conversation, which the model takes.
        passes: runs them beside an engine; None: in one pass.

    Raises:
        DataError: the row holds no word of the probe's scope.
    """
    if (why := absent(row, artefact.card.scope)) is not None:
        raise DataError(f"Probe {artefact.name!r} has nothing to read: {why}.")
    logits, each = contributions(model, artefact, [row], passes)
    detokenizer = Detokenizer(model.backend)
    tokens = tuple(detokenizer.add(token) for token in row)
    probs = artefact.probabilities(logits)[0].tolist()
    rest = logits[0] - each.sum((0, 2))[0]
    return Explanation(
        verdict=artefact.verdict(probs),
        method="exact" if artefact.network.additive else "gradient x input",
        tokens=tokens,
        token_ids=row,
        layers=artefact.card.layers,
        labels=output_labels(artefact),
        logits=tuple(logits[0].tolist()),
        rest=tuple(rest.tolist()),
        contributions=each[:, 0].cpu().numpy(),
        softmax=artefact.card.task == "multiclass",
        segments=row.segments,
    )


def output_labels(artefact: Artefact) -> tuple[str, ...]:
    """The labels that have a logit: all, or the positive one of a binary probe."""
    labels = artefact.card.labels
    return labels[1:] if artefact.card.task == "binary" else labels


def contributions(
    model: LanguageModel,
    artefact: Artefact,
    rows: Sequence[Sequence[int]],
    passes: ChunkedPasses | None = None,
) -> tuple[Float[Tensor, "batch output"], Float[Tensor, "layer batch token output"]]:
    """Logits of some rows, and what each token at each layer added; rows are padded on the left.

    Tokens outside of the probe's scope add nothing.
    """
    network = artefact.network
    keeper = ValueKeeper(model.backend, artefact, wide=not network.additive)
    (passes or ChunkedPasses(model.backend, nullcontext)).run(keeper, keeper.layers, rows)
    read = read_mask(keeper.mask, rows, artefact.card.scope)
    fold, exact = keeper.group.fold, as_given(model.backend.device)
    if not network.additive:
        with exact:
            return gradient_times_input(network, keeper.values, read)
    with torch.no_grad(), exact:
        logits = fold.finish(fold.summarise(keeper.values, read))
        return logits, network.contributions(keeper.values, read)


def gradient_times_input(
    network: Network, hidden: Float[Tensor, "layer batch token dim"], mask: Tensor
) -> tuple[Float[Tensor, "batch output"], Float[Tensor, "layer batch token output"]]:
    """Logits, and of each state x the product x . dlogit/dx, one backward pass a logit.

    The RMS norm is held fixed: a normalised state does not change with its own size, so that its
    gradient along itself would be zero.
    """
    scale = inverse_rms_by_layer(hidden)
    states = hidden.clone().requires_grad_()
    with torch.inference_mode(False), torch.enable_grad():
        logits = network(states, mask, scale)
        each: list[Tensor] = []
        for output in range(logits.shape[1]):
            (gradient,) = torch.autograd.grad(logits[:, output].sum(), states, retain_graph=True)
            each.append((gradient * hidden).sum(-1).masked_fill(~mask, 0.0))
    return logits.detach(), torch.stack(each, -1)
