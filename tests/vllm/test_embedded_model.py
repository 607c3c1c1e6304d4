"""The embedded model in vLLM with eight gates: exact in fp32, within the memory that it prints."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from riding import MARK, ProbedModel, greedy
from test_memory import gates

from pillion.backends.embedded import embedded_model_path
from pillion.core import Shape
from pillion.probe import Artefact, build

pytestmark = [pytest.mark.vllm, pytest.mark.model]


def save_gates(folder: Path, identity: Any) -> list[Artefact]:
    """Eight binary gates of eight heads on every layer."""
    made: list[Artefact] = []
    for plain in gates(identity.num_layers):
        network = build(
            "gate", Shape(identity.num_layers + 1, identity.dim, 1), seed=plain.card.seed
        )
        facts = plain.card.model_dump(
            include={"probe", "task", "labels", "layers", "template", "data", "seed", "training"}
        )
        made.append(Artefact.of(plain.name, network, **facts, model=identity, metrics={}))
        made[-1].save(folder / plain.name)
    return made


def test_eight_gates_are_exact_and_as_small_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ProbedModel(embedded_model_path(), tmp_path, save_gates)
    shared = "You are a careful assistant. Answer in one short sentence, and say so if unsure. " * 3
    texts = [shared + end for end in ("What is rain?", "Who wrote Faust?", "What is rain?")]
    prompts = [{"prompt_token_ids": list(model.backend.encode(text, "raw"))} for text in texts]
    said = list[str]()
    logger = import_module("pillion.vllm.connector").logger
    monkeypatch.setattr(logger, "info", lambda form, *parts: said.append(form % parts))
    with model.engine() as llm:
        outputs = llm.generate(prompts[:1], greedy(12)) + llm.generate(prompts[1:], greedy(40))
    assert [output.num_cached_tokens > 0 for output in outputs] == [False, True, True]
    assert max(map(model.error, outputs)) <= MARK
    # Blocks of 32 tokens here, keys and values in fp32: half of what a GPU's 16 and bf16 give.
    (printed,) = [line for line in said if "side cache takes" in line]
    assert "read 31 layers: the side cache takes 996 bytes a token, 2.2%" in printed
