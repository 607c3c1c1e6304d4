"""A tiny model, probes for it, vLLM with both, and what the plain definition says."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pillion.backends import load_backend
from pillion.core import ModelIdentity
from pillion.probe import Artefact
from pillion.riding.latest_logits import KEY
from pillion.riding.verdicts import read_of
from pillion.vllm import options
from saved_models import MARK as MARK
from saved_models import relative_error
from saved_models import save_chat_model as save_chat_model
from saved_models import save_tiny_model as save_tiny_model
from tiny_models import full_states, make_artefact

LIVING: list[Any] = []
"""The engine in this process: vLLM keeps its state in globals, so there may be one."""
BLOCK_TOKENS = 32  # the least that vLLM's attention takes on a CPU
LENGTHS = [(0, 5), (0, 37), (100, 20), (100, 33), (64, 1), (100, 90), (0, 200), (32, 32), (0, 31)]
"""Prompts for `random_prompts`: within a block, at its edge, over several chunks, with prefixes."""


def save_probes(folder: Path, identity: ModelIdentity) -> list[Artefact]:
    """Four probes in three groups, of every task."""
    last = identity.num_layers
    probes = [
        make_artefact("binary", identity),
        make_artefact("labels", identity, task="multilabel", seed=1),
        make_artefact("paper", identity, "gate-paper", "multiclass", seed=2),
        make_artefact("mean", identity, "pooling", "multiclass", layers=[1, last], seed=3),
    ]
    for probe in probes:
        probe.save(folder / probe.name)
    return probes


class ProbedModel:
    """Everything about one model that tests ask for.

    Args:
        folder: of the model.
        probes_folder: where its probes are put.
        save: makes them.
    """

    def __init__(
        self,
        folder: Path,
        probes_folder: Path,
        save: Callable[[Path, ModelIdentity], list[Artefact]] = save_probes,
    ) -> None:
        self.folder = folder
        self.backend: Any = load_backend(str(folder), dtype="float32", device="cpu")
        self.probes = save(probes_folder, self.backend.identity)
        self.folders = [probes_folder / probe.name for probe in self.probes]

    def options(
        self,
        http: bool = False,
        allow_mismatch: bool = False,
        policy: Path | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """Options of vLLM that let the probes ride in a small engine."""
        small = {
            "model": str(self.folder),
            "dtype": "float32",
            "max_model_len": 768,
            "block_size": BLOCK_TOKENS,
            "max_num_batched_tokens": 64,  # longer prompts are read in chunks
            "max_num_seqs": 16,
            "kv_cache_memory_bytes": 2**26,
            "disable_log_stats": False,
        }
        names = self.backend.model.config.architectures
        chosen = options(
            names, self.folders, http=http, allow_mismatch=allow_mismatch, policy=policy
        )
        return {**small, **chosen, **others}

    @contextmanager
    def engine(self, **others: Any) -> Generator[Any]:
        """vLLM in this process."""
        from vllm import LLM
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        assert not LIVING, "an engine of another test lives in this process"
        llm = LLM(**self.options(**others))
        LIVING.append(llm)
        try:
            yield llm
        finally:
            LIVING.clear()
            llm.llm_engine.engine_core.shutdown()
            del llm
            gc.collect()
            cleanup_dist_env_and_memory()

    @torch.no_grad()
    def logits(
        self, ids: Sequence[int], begin: int, end: int, backend: Any = None
    ) -> dict[str, Tensor]:
        """Logits of every probe on a part of a text, by the plain definition on whole states.

        Args:
            ids: of the text.
            begin: of the part.
            end: behind the part.
            backend: another than the one in fp32.
        """
        states = full_states(backend or self.backend, list(ids)[:end])[:, begin:].float()
        mask = torch.ones(1, end - begin, dtype=torch.bool)
        return {
            a.name: a.network(states[list(a.card.layers)][:, None], mask)[0] for a in self.probes
        }

    def error(self, output: Any, choice: int = 0) -> float:
        """Worst relative error of a logit of an output: of its prompt, and of one answer."""
        found = output.kv_transfer_params[KEY]
        prompt, answer = list(output.prompt_token_ids), list(output.outputs[choice].token_ids)
        of_choice = read_of(found, choice)
        read, response = len(answer) - 1, of_choice["response"]
        assert of_choice["read"] == read
        whole = prompt + answer
        wanted = self.logits(whole, 0, len(prompt))
        worst = relative_error(found["prompt"], wanted)
        if not read:
            assert not response
            return worst
        wanted = self.logits(whole, len(prompt), len(prompt) + read)
        return max(worst, relative_error(response, wanted))


def greedy(max_tokens: int, **others: Any) -> Any:
    """Sampling parameters of vLLM: the likeliest tokens, as many as that."""
    from vllm import SamplingParams

    return SamplingParams(
        **{"temperature": 0, "max_tokens": max_tokens, "ignore_eos": True} | others
    )


def random_prompts(lengths: Sequence[tuple[int, int]], seed: int = 0) -> list[dict[str, Any]]:
    """Prompts of (tokens of a prefix that all share, tokens of its own)."""
    noise = torch.Generator().manual_seed(seed)
    shared = torch.randint(96, (600,), generator=noise).tolist()
    return [
        {"prompt_token_ids": shared[:common] + torch.randint(96, (own,), generator=noise).tolist()}
        for common, own in lengths
    ]
