"""Answers that reason: probes of answers leave it out, in SGLang's server as in the definition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sglang_asking import LETTERS, ask, raw_request
from sglang_probed import ProbedModel
from sglang_serving import serving

from chat_templates import VOCAB, chat_tokenizer
from pillion.backends import load_backend
from saved_models import MARK, save_tiny_model
from tiny_models import distance, full_states, make_artefact, offline

pytestmark = pytest.mark.sglang


class Reasoning(ProbedModel):
    """A model whose tokenizer knows `<think>`, and two probes of answers."""

    def __init__(self, root: Path) -> None:
        tokenizer = chat_tokenizer("qwen3")
        self.marks = [tokenizer.get_added_vocab()[mark] for mark in ("<think>", "</think>")]
        self.folder = save_tiny_model(root / "model", "llama", tokenizer, VOCAB)
        self.backend = load_backend(str(self.folder), dtype="float32", device="cpu")
        self.probes = [
            make_artefact(scope, self.backend.identity, template="chat", scope=scope, seed=i)
            for i, scope in enumerate(("response", "assistant", "all"))
        ]
        self.folders = [root / "probes" / probe.name for probe in self.probes]
        for probe, folder in zip(self.probes, self.folders, strict=True):
            probe.save(folder)


def test_reasoning_is_left_out_of_answers(tmp_path: Path) -> None:
    ridden = Reasoning(tmp_path)
    first, last = ridden.marks
    bias = LETTERS | {str(mark): 103.0 for mark in ridden.marks}
    params = {"max_new_tokens": 60, "temperature": 1.5, "ignore_eos": True, "logit_bias": bias}
    bodies = [raw_request(range(60, 80 + i), 1) for i in range(4)]
    bodies = [body | {"sampling_params": params} for body in bodies]
    with serving(ridden, tmp_path, "--enable-mixed-chunk") as address:
        answers = ask(address, bodies)
    for i, answer in enumerate(answers):
        prompt = list(range(60, 80 + i))
        inside, spoken = False, list[int]()
        for place, token in enumerate(answer.ids[:-1], start=len(prompt)):
            if token in ridden.marks:
                inside = token == first
            elif not inside:
                spoken.append(place)
        assert first in answer.ids and last in answer.ids and 0 < len(spoken) < 59
        states = full_states(ridden.backend, [*prompt, *answer.ids])
        ranges = [range(place, place + 1) for place in spoken]
        for probe in ridden.probes[:2]:
            logits = answer.verdicts["logits"]["response"][probe.name]
            got = probe.probabilities(torch.tensor([logits]))[0]
            assert distance(got, offline(probe, states, ranges)) <= MARK
