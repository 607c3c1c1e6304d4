"""Reader tokens: learned inputs behind a text, which read it and which nothing of it reads.

The text's own pass stays as it is, and so do its keys and values: they are computed once, without
gradients. A branch of a few tokens attends to them, and the state of its last one is classified.
What may be learnt of the branch is its inputs alone (prompt tuning, Lester et al. 2021, arXiv
2104.08691), a vector added before every block too (after P-tuning v2, Liu et al. 2022, arXiv
2110.07602), or adapters of the blocks that see the branch alone (activated LoRA, Greenewald et al.
2025, arXiv 2504.12397).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from pillion.backends.transformers import TransformersBackend
from pillion.core.batching import batches_by_length
from pillion.extract.collector import pad

Learnt = Literal["inputs", "every layer", "adapters"]
"""What of a branch is learnt, beside its head."""

PREFIX_TOKENS = 4096
FREQUENT = 5000
GAIN = 5.0
"""Vectors move so many times as fast as the head: prompt tuning wants steep rates."""
ADAPTERS: dict[str, Any] = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "target_modules": "all-linear",
}


class Prefixes:
    """Keys and values of texts, which stay whatever reads them.

    Args:
        backend: of a transformers model with attention in every block.
        rows: token ids of every text.
    """

    def __init__(self, backend: TransformersBackend, rows: Sequence[Sequence[int]]) -> None:
        self._backend = backend
        self._kept: dict[tuple[int, ...], Float[Tensor, "layer both head token width"]] = {}
        each = sorted({tuple(row) for row in rows})
        for places in batches_by_length([len(row) for row in each], PREFIX_TOKENS):
            self._fill([each[place] for place in places])

    @torch.no_grad()
    def _fill(self, rows: Sequence[tuple[int, ...]]) -> None:
        ids, mask = pad(rows)
        cache: Any = DynamicCache()
        cached = {self._backend.cache_word: cache, "use_cache": True}
        self._backend.decoder(input_ids=ids, attention_mask=mask.long(), **cached)
        whole = [torch.stack([layer.keys, layer.values]) for layer in cache.layers]
        for place, row in enumerate(rows):
            self._kept[row] = torch.stack([one[:, place, :, : len(row)] for one in whole])

    def of(self, rows: Sequence[Sequence[int]]) -> DynamicCache:
        """A cache of rows, padded on the right."""
        own = [self._kept[tuple(row)] for row in rows]
        longest = max(one.shape[3] for one in own)
        layers, both, heads, _, width = own[0].shape
        padded = own[0].new_zeros(layers, both, len(own), heads, longest, width)
        for place, one in enumerate(own):
            padded[:, :, place, :, : one.shape[3]] = one
        return DynamicCache([(keys, values) for keys, values in padded])


class Branch(nn.Module):
    """Reader tokens and a head on the last of them.

    Args:
        backend: whose decoder is copied; it stays as it is.
        prefixes: of the texts that are read.
        num_outputs: logits.
        learnt: what may be learnt.
        length: reader tokens.
        seed: of the tokens that the inputs begin as, of adapters and of the head.
    """

    def __init__(
        self,
        backend: TransformersBackend,
        prefixes: Prefixes,
        num_outputs: int,
        learnt: Learnt,
        length: int,
        seed: int,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        identity, table = backend.identity, backend.model.get_input_embeddings().weight
        self._prefixes, self._cache_word = prefixes, backend.cache_word
        self.dtype = table.dtype
        # Drawn of the frequent tokens, as those of a vocabulary mostly come first.
        drawn = torch.randint(0, min(FREQUENT, len(table)), (length,))
        self.begin = table[drawn].detach().float()
        self.inputs = nn.Parameter(torch.zeros(length, identity.dim))
        self.head = nn.Linear(identity.dim, num_outputs)
        self.decoder: Any = copy.deepcopy(backend.decoder).requires_grad_(False)
        if learnt == "every layer":
            self.added = nn.Parameter(torch.zeros(identity.num_layers, length, identity.dim))
            for layer, block in enumerate(self.decoder.layers):
                block.register_forward_pre_hook(self._adding(layer))
        if learnt == "adapters":
            from peft import LoraConfig, get_peft_model

            self.decoder = get_peft_model(self.decoder, LoraConfig(**ADAPTERS))

    def logits(self, rows: list[Sequence[int]]) -> Float[Tensor, "row output"]:
        """Of rows of token ids whose prefixes are kept."""
        lengths = torch.tensor([len(row) for row in rows])
        inputs = (self.begin + GAIN * self.inputs).to(self.dtype)
        own = torch.arange(len(inputs))
        before = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        mask = torch.cat([before, before.new_ones(len(rows), len(inputs))], 1)
        said = self.decoder(
            inputs_embeds=inputs[None].expand(len(rows), -1, -1),
            attention_mask=mask.long(),
            position_ids=lengths[:, None] + own,
            use_cache=True,
            **{self._cache_word: self._prefixes.of(rows)},
        )
        return self.head(said.last_hidden_state[:, -1].float())

    def _adding(self, layer: int) -> Any:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            states, *rest = given
            return (states + (GAIN * self.added[layer]).to(states.dtype), *rest)

        return hook
