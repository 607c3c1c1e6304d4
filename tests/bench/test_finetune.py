"""Fine-tuning: a step of many tokens is the sum of its pieces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from mood import problem_of
from torch import Tensor, nn

from pillion.extract.progress import silent
from pillion_bench.baselines import finetune as module
from pillion_bench.baselines.finetune import Rates, finetune

RATES = Rates(epochs=2, learning_rate=0.05, batch_size=16)


class Bag(nn.Module):
    """Means of embeddings; remembers the sizes of what it was shown in training."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(64, 8), nn.Linear(8, 1)
        self.shown: list[int] = []

    def logits(self, rows: list[Sequence[int]]) -> Tensor:
        if self.training:
            self.shown.append(max(map(len, rows)) * len(rows))
        return self.head(torch.stack([self.table(torch.tensor(row)).mean(0) for row in rows]))


def test_a_step_in_pieces_moves_the_weights_as_a_whole_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problem_of(tmp_path)
    tokens = {
        part.name: [[1 + len(text) % 50] * (3 + row % 7) for row, text in enumerate(part.texts)]
        for part in problem.chosen_on
    }

    def trained(max_tokens: int) -> tuple[Bag, list[float]]:
        monkeypatch.setattr(module, "TRAINING_TOKENS", max_tokens)
        bag = Bag()
        return bag, finetune(bag.logits, bag, tokens, problem, RATES, 0, silent)

    (whole, losses), (pieces, same) = trained(1000), trained(20)
    assert max(whole.shown) > 20 >= max(pieces.shown)
    assert losses == pytest.approx(same, abs=1e-5)
    for one, other in zip(whole.parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
