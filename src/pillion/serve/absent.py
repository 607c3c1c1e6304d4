"""Which probes had nothing to read, and why. Pure functions: nothing is asked or sent here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pillion.core import PROMPT_SCOPES, Scope, as_tokens
from pillion.probe import Artefact
from pillion.runtime.encoding import absent


def absences(
    probes: Mapping[str, Artefact],
    token_ids: Sequence[int],
    judged: Collection[str],
    scopes: Collection[Scope] = PROMPT_SCOPES,
) -> dict[str, str]:
    """Probe -> why it gave no verdict.

    Args:
        probes: by name.
        token_ids: of the prompt, or of a whole conversation.
        judged: names of the probes that gave one.
        scopes: of the probes that were asked; probes of answers say nothing of a prompt.
    """
    tokens = as_tokens(token_ids)
    found: dict[str, str] = {}
    for name, artefact in probes.items():
        scope = artefact.card.scope
        if name not in judged and scope in scopes:
            found[name] = absent(tokens, scope) or "the engine could not tell whose words these are"
    return found


def of_tools(probes: Mapping[str, Artefact]) -> frozenset[str]:
    """Names of the probes that read what tools have said."""
    return frozenset(name for name, one in probes.items() if one.card.scope == "tool")
