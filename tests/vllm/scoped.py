"""Conversations for vLLM's engine, probes of every scope, and what they must say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from riding import ProbedModel, greedy

from pillion.core import ANSWER_SCOPES, PROMPT_SCOPES, SCOPES, ModelIdentity, Tokens
from pillion.probe import Artefact
from pillion.riding.latest_logits import KEY
from pillion.riding.turns import turns_args
from pillion.riding.verdicts import read_of
from talks import talks
from tiny_models import distance, full_states, make_artefact, offline

TALKS = talks(
    "You serve a bank, and you are to be brief and kind in all that you say.",
    last="My balance, please! " * 6,  # read in several chunks
)


def save_scoped(folder: Path, identity: ModelIdentity) -> list[Artefact]:
    """A gate and a pooling probe of every scope."""
    made = [
        make_artefact(f"{kind}-{scope}", identity, kind, seed=i, template="chat", scope=scope)
        for i, scope in enumerate(SCOPES)
        for kind in ("gate", "pooling")
    ]
    for probe in made:
        probe.save(folder / probe.name)
    return made


def ask(llm: Any, rows: Sequence[Tokens], max_tokens: int, **others: Any) -> list[Any]:
    prompts = [{"prompt_token_ids": list(row)} for row in rows]
    params = [greedy(max_tokens, extra_args=turns_args(row), **others) for row in rows]
    return llm.generate(prompts, params)


def worst(
    chat: ProbedModel, row: Tokens, output: Any, choice: int = 0, lost: bool = False
) -> float:
    """Worst relative error of a logit; raises unless verdicts are there just where words are.

    Args:
        chat: model and probes.
        row: the prompt, with its turns.
        output: of vLLM.
        choice: which answer.
        lost: whether probes of some turns may have lost the prompt's.
    """
    found, answer = output.kv_transfer_params[KEY], list(output.outputs[choice].token_ids)
    of_choice = read_of(found, choice)
    read, response = len(answer) - 1, of_choice["response"]
    assert of_choice["read"] == read
    states, end = full_states(chat.backend, [*row, *answer]), len(row) + read
    errors = [0.0]
    for probe in chat.probes:
        scope = probe.card.scope
        of_prompt = row.ranges(scope) if scope in PROMPT_SCOPES else ()
        of_answer = (range(len(row), end),) if scope in ANSWER_SCOPES and read else ()
        for told, ranges in ((found["prompt"], of_prompt), (response, of_answer)):
            if lost and told is found["prompt"] and scope != "all" and probe.name not in told:
                continue
            assert (probe.name in told) == bool(ranges), (probe.name, ranges)
            if ranges:
                errors.append(error(probe, told, states, ranges))
    return max(errors)


def error(
    probe: Artefact, told: dict[str, list[float]], states: torch.Tensor, ranges: Sequence[range]
) -> float:
    """Relative error of a probe's probabilities against the plain definition on some places."""
    got = probe.probabilities(torch.tensor([told[probe.name]]))[0]
    return distance(got, offline(probe, states, ranges))
