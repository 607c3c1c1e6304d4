"""LOS-Net: a small encoder over the model's own output distributions, token by token.

arXiv 2503.14043: per position the K largest log-probabilities, sorted and z-scored, through a
linear map to h / 2; beside it `p 2(0.5 - r / V) w_R + p w_P` of the token that did come (p its
probability, r its rank, V the vocabulary); a CLS token, learned positions, one or two encoder
layers. Made for labels of an answer: with `after` only the tokens behind it are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from pillion.backends import Backend
from pillion.core.batching import batches_by_length
from pillion.extract import Progress, StateSource
from pillion_bench.baselines.base import Method, Outcome, Serving, Settings, Workplace
from pillion_bench.baselines.finetune import Rates, described, finetune, long_enough, predict
from pillion_bench.problem import Part, Problem

READ_TOKENS = 2048
UNEMBED_TOKENS = 128
"""Positions whose logits over the whole vocabulary are in memory at once."""


class LosNetSettings(Settings):
    """Settings of LOS-Net.

    Attributes:
        top_k: log-probabilities a position, K.
        after: only what stands behind the first place of this string is read, of raw texts; None:
            all.
        max_tokens: positions a text, from the first that is read.
        dim: width of the encoder, h.
        heads: of its attention.
        layers: of the encoder.
        dropout: in the encoder.
        learning_rate: the highest one.
        epochs: passes over the training rows; while the last is the best, twice as many are tried.
        longest: epochs at most.
        batch_size: rows a step.
    """

    top_k: int = Field(default=1000, ge=1)
    after: str | None = None
    max_tokens: int = Field(default=128, ge=1)
    dim: int = Field(default=128, ge=8)
    heads: int = Field(default=8, ge=1)
    layers: int = Field(default=1, ge=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    learning_rate: float = Field(default=3e-4, gt=0)
    epochs: int = Field(default=10, ge=1)
    longest: int = Field(default=40, ge=1)
    batch_size: int = Field(default=32, ge=1)


@dataclass(frozen=True)
class Signature:
    """What one text's output distributions are reduced to.

    Attributes:
        top: the K largest log-probabilities of each position, sorted and z-scored, in fp16.
        actual: p and 2(0.5 - r / V) of the token that came.
    """

    top: Float[Tensor, "token rank"]
    actual: Float[Tensor, "token 2"]


class LosNet(Method):
    """The encoder over signatures; needs no hidden states but the last layer's."""

    Settings: ClassVar[type[Settings]] = LosNetSettings

    @property
    def seeded(self) -> bool:
        """See `Method.seeded`."""
        return True

    def why_not(self, problem: Problem, backend: Backend) -> str | None:
        """A string's place among the tokens is known where no template stands before them."""
        if self.settings.after is None or problem.spec.template == "raw":
            return None
        return "Where `after` stands is known of raw texts alone; take the template raw, or none."

    def fit(self, place: Workplace, seeds: Sequence[int]) -> Iterable[Outcome]:
        """See `Method.fit`; signatures are made once for all seeds."""
        made = cache(partial(self.signatures, place))
        how = self.settings
        rates = Rates(how.epochs, how.learning_rate, batch_size=how.batch_size, longest=how.longest)

        def learn(seed: int) -> Outcome:
            return long_enough(
                lambda epochs: self._fit(place, made, seed, replace(rates, epochs=epochs)),
                place.problem,
                rates,
            )

        return (learn(seed) for seed in seeds)

    def serving(self, place: Workplace) -> Serving:
        """See `Method.serving`: one position, as for each token of an answer."""
        how, vocabulary = self.settings, self._vocabulary(place.states.backend)
        network = Encoder(how, min(how.top_k, vocabulary), place.problem.num_outputs).eval()
        token = torch.zeros(1, dtype=torch.long)

        def after(_: object, logits: Tensor) -> Tensor:
            return network([signature(logits.float(), token, how.top_k)])

        weights = sum(p.numel() * 4 for p in network.parameters())
        return Serving(weights, after=after)

    def _fit(
        self,
        place: Workplace,
        made: Callable[[Part], list[Signature]],
        seed: int,
        rates: Rates,
    ) -> Outcome:
        problem, how = place.problem, self.settings
        torch.manual_seed(seed)
        rows = [one for part in problem.chosen_on for one in made(part)]
        network = Encoder(how, rows[0].top.shape[1], problem.num_outputs)

        def logits(batch: list[Sequence[int]]) -> Tensor:
            return network([rows[row[0]] for row in batch])

        lines, first = _lines(rows), len(problem.train)
        named = {"train": lines[:first], "validation": lines[first:]}
        losses = finetune(logits, network, named, problem, rates, seed, place.progress)

        def ask(part: Part) -> np.ndarray:
            own = made(part)

            def of_own(batch: list[Sequence[int]]) -> Tensor:
                return network([own[row[0]] for row in batch])

            return predict(of_own, network, _lines(own), problem.task)

        size = sum(p.numel() for p in network.parameters())
        return Outcome(ask(problem.validation), ask, size, described(rates, losses))

    def signatures(self, place: Workplace, part: Part) -> list[Signature]:
        """One a row; another way to find what is read of a row overrides it."""
        states, backend = place.states, place.states.backend
        last, tokens = (backend.identity.num_layers,), states.tokens(part)
        source = states.every_token(part, last)
        starts = [
            self._start(backend, text, row) for text, row in zip(part.texts, tokens, strict=True)
        ]
        return all_signatures(backend, source, tokens, starts, self.settings, place.progress)

    def _start(self, backend: Backend, text: str, tokens: Sequence[int]) -> int:
        """The first token that is read; the one before it must exist, as it predicts this one."""
        if self.settings.after is None or self.settings.after not in text:
            return 1
        head = text[: text.index(self.settings.after) + len(self.settings.after)]
        # A token that stands on both sides of the border counts as the head's.
        return max(1, min(len(backend.encode(head, "raw")), len(tokens) - 1))

    @staticmethod
    def _vocabulary(backend: Backend) -> int:
        return backend.unembed(torch.zeros(1, backend.identity.dim)).shape[-1]


def _lines(rows: Sequence[Signature]) -> list[list[int]]:
    """Rows as tokens that stand for their signatures: the loop only sorts them by length."""
    return [[number] * len(one.top) for number, one in enumerate(rows)]


def all_signatures(
    backend: Backend,
    source: StateSource,
    tokens: Sequence[Sequence[int]],
    starts: Sequence[int],
    how: LosNetSettings,
    progress: Progress,
) -> list[Signature]:
    """One a row, of the tokens from `starts` on; `source` holds states of the last layer alone."""
    found: dict[int, Signature] = {}
    done, total = 0, sum(source.lengths)
    for rows in batches_by_length(source.lengths, READ_TOKENS):
        hidden, _ = source.read_batch(rows)
        for place, row in enumerate(rows):
            # A text of one token has no distribution of its own: its first token's stands in.
            start, stop = starts[row], max(2, len(tokens[row]))
            stop = min(stop, start + how.max_tokens)
            states = hidden[0, place, start - 1 : stop - 1]
            came = torch.tensor([*tokens[row][start:stop], tokens[row][0]])[: len(states)]
            pieces = [
                signature(backend.unembed(part), ids, how.top_k)
                for part, ids in zip(
                    states.split(UNEMBED_TOKENS), came.split(UNEMBED_TOKENS), strict=True
                )
            ]
            top = torch.cat([piece.top for piece in pieces])
            found[row] = Signature(top, torch.cat([piece.actual for piece in pieces]))
            done += len(tokens[row])
        progress("los-net", done, total)
    return [found[row] for row in range(len(tokens))]


def signature(
    logits: Float[Tensor, "token vocab"], came: Int[Tensor, " token"], top_k: int
) -> Signature:
    """What is kept of each position's distribution.

    Args:
        logits: of every position.
        came: the token that did come there.
        top_k: log-probabilities to keep, at most the vocabulary.
    """
    log_probs, came = logits.log_softmax(-1), came.to(logits.device)
    vocabulary = logits.shape[-1]
    top = log_probs.topk(min(top_k, vocabulary), dim=-1).values
    deviation = top.std(-1, keepdim=True, correction=0).clamp(min=1e-6)
    of_came = log_probs.gather(-1, came[:, None])
    rank = (log_probs > of_came).sum(-1).float()
    actual = torch.stack([of_came[:, 0].exp(), 2 * (0.5 - rank / vocabulary)], -1)
    scaled = (top - top.mean(-1, keepdim=True)) / deviation
    return Signature(scaled.half().cpu(), actual.cpu())


class Encoder(nn.Module):
    """CLS, learned positions and encoder layers over signatures, and a linear head on CLS.

    Args:
        how: widths and depth.
        top_k: log-probabilities a position.
        num_outputs: logits.
    """

    def __init__(self, how: LosNetSettings, top_k: int, num_outputs: int) -> None:
        super().__init__()
        half = how.dim // 2
        self.of_top = nn.Linear(top_k, half)
        self.of_rank = nn.Parameter(torch.randn(half) * 0.02)
        self.of_prob = nn.Parameter(torch.randn(half) * 0.02)
        self.start = nn.Parameter(torch.randn(how.dim) * 0.02)
        self.positions = nn.Parameter(torch.randn(how.max_tokens + 1, how.dim) * 0.02)
        layer = nn.TransformerEncoderLayer(
            how.dim, how.heads, 4 * how.dim, how.dropout, "gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, how.layers, enable_nested_tensor=False)
        self.head = nn.Linear(how.dim, num_outputs)

    def forward(self, rows: Sequence[Signature]) -> Float[Tensor, "batch output"]:
        """Logits of texts, given what the language model gave at each of their tokens."""
        longest = max(len(row.top) for row in rows)
        padding = torch.ones(len(rows), longest + 1, dtype=torch.bool)
        lines: list[Tensor] = []
        for place, row in enumerate(rows):
            length = len(row.top) + 1
            padding[place, :length] = False
            lines.append(nn.functional.pad(self._embed(row), (0, 0, 0, longest + 1 - length)))
        inputs = torch.stack(lines)
        return self.head(self.encoder(inputs, src_key_padding_mask=padding)[:, 0])

    def _embed(self, row: Signature) -> Float[Tensor, "place dim"]:
        prob, rank = row.actual[:, :1], row.actual[:, 1:]
        came = prob * rank * self.of_rank + prob * self.of_prob
        tokens = torch.cat([self.of_top(row.top.float()), came], -1)
        whole = torch.cat([self.start[None], tokens])
        return whole + self.positions[: len(whole)]
