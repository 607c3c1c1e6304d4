"""What must hold before vLLM loads any weights, each in one sentence where it does not.

Imports no vLLM.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from pillion.core import ANSWER_SCOPES, ModelIdentity
from pillion.errors import ConfigError
from pillion.policies import Policies, read_policies
from pillion.probe import Artefact
from pillion.vllm.settings import PLUGIN


def check_plugin(is_registered: bool) -> None:
    """Returns if vLLM has loaded our plugin.

    Raises:
        ConfigError: if `VLLM_PLUGINS` names others only.
    """
    if not is_registered:
        raise ConfigError(
            f"vLLM has not loaded the plugin {PLUGIN!r}: VLLM_PLUGINS is "
            f"{os.environ.get('VLLM_PLUGINS')!r}; add {PLUGIN} to it."
        )


def check_http_plugin() -> None:
    """Returns if vLLM will load what puts verdicts into answers over HTTP.

    Raises:
        ConfigError: if `VLLM_PLUGINS` does not name us; vLLM wants that for anything that changes
            its HTTP interface.
    """
    named = os.environ.get("VLLM_PLUGINS")
    if named is None or PLUGIN not in named.split(","):
        raise ConfigError(
            f"VLLM_PLUGINS is {named!r}, and vLLM puts verdicts into its answers only if it names "
            f"{PLUGIN!r}; start it with VLLM_PLUGINS={f'{named},' if named else ''}{PLUGIN}."
        )


def policies_of(
    path: str | os.PathLike[str] | None, http: bool, artefacts: Sequence[Artefact]
) -> Policies:
    """The policies that vLLM's server follows; none without a file.

    Args:
        path: of the file.
        http: whether our plugin of its HTTP server is asked for.
        artefacts: the probes.

    Raises:
        ConfigError: the file, or a policy in it, cannot be followed.
    """
    if path is None:
        return Policies()
    if not http:
        raise ConfigError(
            "Policies are followed where vLLM's answers carry verdicts over HTTP, which is not "
            "asked for; make the options with `pillion vllm`, or leave the policies out."
        )
    found = read_policies(Path(path))
    found.check({artefact.name: artefact for artefact in artefacts})
    for number, policy in enumerate(found.policies, start=1):
        if policy.server is not None:
            raise ConfigError(
                f"Policy {number} ({policy.action}) asks another server, which vLLM's own does "
                "not; take it out, or serve with `pillion serve` and vLLM as its engine."
            )
    return found


def check_aux_states(are_offered: bool, model_class: str) -> None:
    """Returns if a model class of vLLM offers auxiliary hidden states.

    Raises:
        ConfigError: if it does not.
    """
    if not are_offered:
        raise ConfigError(
            f"vLLM's {model_class} offers no auxiliary hidden states, so probes cannot ride in it; "
            "serve this model with pillion's own engine."
        )


def check_probes(
    artefacts: Sequence[Artefact], identity: ModelIdentity, allow_mismatch: bool = False
) -> None:
    """Returns if the probes can ride in this model.

    Raises:
        MismatchError: one belongs to another model.
        ConfigError: one cannot be folded by the block.
    """
    for artefact in artefacts:
        check_foldable(artefact)
        artefact.check(identity, allow_mismatch)


def check_template(artefacts: Sequence[Artefact], own: object, given: str | None) -> None:
    """Returns if conversations are rendered as probes were trained.

    Args:
        artefacts: the probes.
        own: the model's chat template.
        given: another one that vLLM was started with.

    Raises:
        ConfigError: it is another, and a probe was trained with the model's.
    """
    trained = [a.name for a in artefacts if a.card.template == "chat"]
    if given not in (None, own) and trained:
        raise ConfigError(
            f"The chat template is not the model's own, with which probe {trained[0]!r} was "
            "trained; start vLLM without it, or save the model with that template and train the "
            "probe again."
        )


def hears_reasoning(
    artefacts: Sequence[Artefact], reasoning: tuple[int, int] | None, is_async: bool | None
) -> bool:
    """Whether probes must be told which tokens of an answer are reasoning.

    Args:
        artefacts: the probes.
        reasoning: tokens around the reasoning in an answer, if the model knows any.
        is_async: whether vLLM plans a step before it knows the tokens of the one before.

    Raises:
        ConfigError: they must, and vLLM would not know them in time.
    """
    some = [a.name for a in artefacts if a.card.scope in ANSWER_SCOPES and a.card.scope != "all"]
    if reasoning is None or not some:
        return False
    if is_async:
        raise ConfigError(
            f"Probe {some[0]!r} reads answers without their reasoning, and vLLM's asynchronous "
            "scheduling does not know the tokens in time; start vLLM without it "
            "(--no-async-scheduling, in Python async_scheduling=False)."
        )
    return True


def check_foldable(artefact: Artefact) -> None:
    """Returns if a probe has a state of fixed size.

    Raises:
        ConfigError: if it has not, saying why.
    """
    shapes = [_state_shapes(artefact, num_tokens) for num_tokens in (1, 2)]
    if shapes[0] != shapes[1]:
        raise ConfigError(
            f"Probe {artefact.name!r} ({artefact.card.probe}) keeps values of every token, so a "
            "block of the KV cache cannot be folded; serve it with pillion's own engine, or train "
            "a gate."
        )


def _state_shapes(artefact: Artefact, num_tokens: int) -> dict[str, tuple[int, ...]]:
    num_values = artefact.network.tap().num_values
    values = torch.zeros(artefact.card.shape.num_layers, 1, num_tokens, num_values)
    fold = artefact.network.fold_class([artefact.network])
    state = fold.summarise(values, torch.ones(1, num_tokens, dtype=torch.bool))
    return {name: tuple(tensor.shape[2:]) for name, tensor in state.items()}
