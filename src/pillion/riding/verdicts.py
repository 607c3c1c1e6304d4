"""Verdicts in what an engine sends back: the one way to read them, over HTTP or from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pillion.core import ANSWER_SCOPES, PROMPT_SCOPES, Verdict, absences, verdicts_json
from pillion.errors import ConfigError, StateError
from pillion.policies import ALLOW, Policies, TextPart, decide
from pillion.probe import Artefact
from pillion.riding.latest_logits import KEY
from pillion.riding.report import LogitsByProbe


@dataclass(frozen=True)
class Verdicts:
    """What the probes say of a request.

    Attributes:
        prompt: probe name -> verdict of the prompt.
        response: probe name -> verdict of the answer's tokens that were read: all but the last
            sampled one. Empty if none was.
        response_tokens: how many those are.
        unread: why no probe has read the request; None where they have.
    """

    prompt: Mapping[str, Verdict]
    response: Mapping[str, Verdict]
    response_tokens: int
    unread: str | None = None


def verdicts_of(
    params: Mapping[str, Any] | None,
    artefacts: Sequence[Artefact],
    choice: int | None = None,
) -> Verdicts:
    """The verdicts in what an output carries.

    Args:
        params: `kv_transfer_params` of vLLM's `RequestOutput`, `meta_info` of SGLang's.
        artefacts: the probes that ride.
        choice: index of the answer, where several were asked for.

    Raises:
        ConfigError: there are none: the engine runs without our part in it.
        StateError: a logit is not finite.
    """
    if not params or KEY not in params:
        raise ConfigError(
            "The engine's answer carries no verdicts; start it as `pillion vllm` or `pillion "
            "sglang` says."
        )
    found = params[KEY]
    answer = read_of(found, choice)
    count, response = answer["read"], answer["response"]
    said = verdicts_by_name(found["prompt"], artefacts), verdicts_by_name(response, artefacts)
    why = None
    if "adapter" in found:
        why = f"the request ran with the adapter {found['adapter']!r}, which no probe has seen"
    return Verdicts(*said, count if response else 0, why)


def read_of(found: Mapping[str, Any], choice: int | None = None) -> Mapping[str, Any]:
    """What was read of an answer: `response`, the logits, and `read`, after how many tokens.

    Args:
        found: the mapping that an output carries.
        choice: index of the answer, where several were asked for.
    """
    if choice is None or "choices" not in found:
        return found
    return found["choices"].get(str(choice), {"response": {}, "read": 0})


def answer_json(
    verdicts: Verdicts, artefacts: Sequence[Artefact], policies: Policies | None = None
) -> dict[str, Any]:
    """The `verdicts` object of an answer over HTTP, as pillion's own server has it.

    A probe that had to say something of the prompt and could not is there without a label; so are
    all probes of a request that was not read.

    Args:
        verdicts: of the request.
        artefacts: the probes that ride.
        policies: that decide.
    """
    multilabel = {a.name for a in artefacts if a.card.task == "multilabel"}

    def told(
        part: TextPart, found: Mapping[str, Verdict], missing: Mapping[str, str]
    ) -> dict[str, Any]:
        count = verdicts.response_tokens if part == "response" else None
        decided = decide((policies or Policies()).of(part), found, num_tokens=count).decisions
        return {
            name: said | {"decision": decided.get(name, ALLOW)}
            for name, said in verdicts_json(found, multilabel, missing).items()
        }

    missing = absences({a.name: a.card.scope for a in artefacts}, verdicts.prompt, None)
    unread = dict[str, str]()
    if (why := verdicts.unread) is not None:
        missing = {a.name: why for a in artefacts if a.card.scope in PROMPT_SCOPES}
        unread = {a.name: why for a in artefacts if a.card.scope in ANSWER_SCOPES}
    return {
        "prompt": told("prompt", verdicts.prompt, missing),
        "response": told("response", verdicts.response, unread),
        "response_tokens": verdicts.response_tokens,
    }


def probes_json(artefacts: Sequence[Artefact]) -> dict[str, Any]:
    """The body of `GET /v1/probes`: what rides."""
    data = [
        {
            "id": artefact.name,
            "object": "probe",
            "task": artefact.card.task,
            "labels": list(artefact.card.labels),
            "layers": list(artefact.card.layers),
        }
        for artefact in artefacts
    ]
    return {"object": "list", "data": data}


def verdicts_by_name(numbers: LogitsByProbe, artefacts: Sequence[Artefact]) -> dict[str, Verdict]:
    """Verdicts of the probes whose logits are there.

    Raises:
        StateError: a logit is not finite.
    """
    return {a.name: _verdict(a, numbers[a.name]) for a in artefacts if a.name in numbers}


def _verdict(artefact: Artefact, numbers: Sequence[float]) -> Verdict:
    logits = torch.tensor([numbers])
    if not bool(torch.isfinite(logits).all()):
        raise StateError(
            f"Probe {artefact.name!r} read hidden states that are not finite: the model gave NaN "
            "or infinity. Load the model in another dtype (float32 or bfloat16)."
        )
    return artefact.verdict(artefact.probabilities(logits)[0].tolist())
