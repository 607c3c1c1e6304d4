"""Tiny random models of several architectures, and probes for them: nothing is downloaded."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pillion.backends import Backend
from pillion.backends.transformers import TransformersBackend
from pillion.core import ModelIdentity, Verdict
from pillion.probe import AGGREGATORS, Artefact
from pillion.probe.untrained import untrained

VOCAB, DIM = 96, 32
DEVICE = torch.device(os.environ.get("PILLION_TEST_DEVICE", "cpu"))
"""Where tiny models run: the laws hold on an accelerator too."""

LABELS: dict[str, tuple[str, ...]] = {
    "binary": ("no", "yes"),
    "multiclass": ("a", "b", "c"),
    "multilabel": ("a", "b", "c", "d"),
}
SMALL: dict[str, dict[str, Any]] = {
    "gate": {"num_heads": 3},
    "gate-mlp": {"num_heads": 3, "width": 4},
    "attention": {"num_heads": 3},
    "multimax": {"num_heads": 3},
    "rolling": {"num_heads": 3, "window": 4},
    "mha": {"width": 8, "num_heads": 2},
    "mha-causal": {"width": 8, "num_heads": 2},
}
"""Settings that keep known aggregators small; others run with their defaults."""


def _llama() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(**sizes(num_layers=4), num_key_value_heads=2)


def _qwen3() -> Any:
    from transformers import Qwen3Config

    return Qwen3Config(**sizes(num_layers=3), num_key_value_heads=2, head_dim=8)


def _gpt2() -> Any:
    from transformers import GPT2Config

    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
    return GPT2Config(vocab_size=VOCAB, n_embd=DIM, n_layer=3, n_head=4, n_positions=640, **ends)


def _mixtral() -> Any:
    from transformers import MixtralConfig

    return MixtralConfig(
        **sizes(num_layers=3), num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2
    )


def sizes(num_layers: int) -> dict[str, Any]:
    """What tiny configurations of most architectures share."""
    return {
        "vocab_size": VOCAB,
        "hidden_size": DIM,
        "intermediate_size": 48,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 640,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        # The default is so small that layers would hardly differ.
        "initializer_range": 0.2,
    }


CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "qwen3": _qwen3,
    "gpt2": _gpt2,
    "mixtral": _mixtral,
}


def tiny_model(kind: str = "llama", seed: int = 0, vocab: int = VOCAB) -> Any:
    """A random causal LM in fp32; same seed, same weights."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = CONFIGS[kind]()
        config.vocab_size = vocab
        model: Any = AutoModelForCausalLM.from_config(config)
    return model.eval().to(DEVICE)


def tiny_backend(kind: str = "llama") -> TransformersBackend:
    """A tiny model, the same each time, with a tokenizer."""
    return TransformersBackend(tiny_model(kind), tiny_tokenizer(), "tiny")


def random_ids(num_tokens: int, seed: int = 0) -> list[int]:
    noise = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB, (num_tokens,), generator=noise).tolist()


def make_artefact(
    name: str,
    identity: ModelIdentity,
    probe: str = "gate",
    task: str = "binary",
    layers: Sequence[int] | None = None,
    template: str = "raw",
    seed: int = 0,
    scope: str = "all",
) -> Artefact:
    """An untrained probe with weights large enough that every token has its say."""
    facts = {"task": task, "labels": LABELS[task], "template": template, "scope": scope}
    settings = SMALL.get(probe, {})
    return untrained(name, identity, probe, layers, settings, noise=seed + 100, seed=seed, **facts)


def all_artefacts(
    identity: ModelIdentity, layers: Sequence[int] | None = None, template: str = "raw"
) -> list[Artefact]:
    """A binary and a multi-class probe of every registered aggregator."""
    return [
        make_artefact(f"{probe}-{task}", identity, probe, task, layers, template, seed)
        # From 3 on: of smaller seeds, one draws a probe to which half of a text says it all.
        for seed, (probe, task) in enumerate(
            ((probe, task) for probe in AGGREGATORS for task in ("binary", "multiclass")), start=3
        )
    ]


class Recorder:
    """A watcher that keeps every state it is shown: the naive way, to compare with."""

    def __init__(self) -> None:
        self.passes: list[dict[int, Tensor]] = []
        self.masks: list[Tensor] = []

    def start(self, step: Any) -> None:
        self.passes.append({})
        self.masks.append(step.mask)

    def see(self, layer: int, hidden: Tensor) -> None:
        self.passes[-1][layer] = hidden.detach().clone()

    def end(self, cache: object | None) -> None:
        pass

    def move(self, cache: object, rows: Tensor) -> None:
        pass


def full_states(backend: Backend, ids: Sequence[int]) -> Tensor:
    """[layer, token, dim]: all layers of one whole, unpadded sequence, run by itself."""
    recorder = Recorder()
    layers = range(backend.identity.num_layers + 1)
    with backend.watch(recorder, layers):
        backend.forward(torch.tensor([list(ids)]), torch.ones(1, len(ids), dtype=torch.bool))
    (states,) = recorder.passes
    return torch.stack([states[layer][0] for layer in layers]).cpu()


@torch.no_grad()
def offline(artefact: Artefact, states: Tensor, ranges: Sequence[range] | None = None) -> Tensor:
    """Probabilities by the plain definition of [layer, token, dim], all layers of the model.

    Of the tokens at the places of `ranges` alone; None for all tokens.
    """
    if ranges is not None:
        states = states[:, [place for one in ranges for place in one]]
    hidden = states[list(artefact.card.layers)][:, None].clone()
    mask = torch.ones(1, hidden.shape[2], dtype=torch.bool)
    network = copy.deepcopy(artefact.network).cpu()  # who reads it elsewhere has moved it there
    return artefact.probabilities(network(hidden, mask))[0]


def probs_of(verdict: Verdict, artefact: Artefact) -> Tensor:
    """A verdict's numbers, in the columns of the probe's logits."""
    labels = artefact.card.labels
    named = labels[1:] if artefact.card.task == "binary" else labels
    return torch.tensor([verdict.probs[label] for label in named])


def off_by(verdict: Verdict, artefact: Artefact, states: Tensor) -> float:
    """The largest error of a verdict's numbers; see `offline`."""
    return (probs_of(verdict, artefact) - offline(artefact, states)).abs().max().item()


def distance(got: Tensor, wanted: Tensor) -> float:
    """Relative error of all numbers together."""
    got, wanted = got.cpu(), wanted.cpu()
    assert got.shape == wanted.shape
    return ((got - wanted).norm() / wanted.norm()).item()


def hooks_of(model: torch.nn.Module) -> int:
    """Hooks of all modules of a model, of every kind."""
    kinds = [k for k in vars(torch.nn.Module()) if k.endswith("_hooks")]
    return sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds)


def tiny_tokenizer(template: bool = True) -> Any:
    """A token a printable ASCII character, and one around a chat turn."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = {chr(code): code - 32 for code in range(32, 127)} | {"<turn>": 95}
    letters = Tokenizer(models.BPE(vocab=words, merges=[]))
    letters.decoder = decoders.Fuse()
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=letters, additional_special_tokens=["<turn>"]
    )
    if template:
        tokenizer.chat_template = "<turn>{{ messages[0]['content'] }}<turn>"
    return tokenizer
