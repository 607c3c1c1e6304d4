"""Which probes had no words to read, and why, in a sentence.

Pure functions of tokens and scopes; knows no probe and no engine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pillion.core.conversation import PROMPT_SCOPES, Scope, Tokens, as_tokens, role_of

UNTOLD = "the engine could not tell whose words these are"


def absent(tokens: Tokens, scope: Scope) -> str | None:
    """Why a probe of that scope has nothing to read, in a sentence; None where it has."""
    if tokens.ranges(scope):
        return None
    if scope == "all":
        return "there are no tokens to read"
    if not tokens.segments:
        return f"a text without turns has no words of the scope {scope!r}, nor has an empty one"
    return f"no turn of the {role_of(scope)} has words, which the scope {scope!r} reads"


def absences(
    scopes: Mapping[str, Scope],
    judged: Collection[str],
    token_ids: Sequence[int] | None,
    among: Collection[Scope] = PROMPT_SCOPES,
) -> dict[str, str]:
    """Probe -> why it gave no verdict, of those that were asked for one.

    Args:
        scopes: probe -> what it reads.
        judged: names of the probes that gave one.
        token_ids: of the prompt, or of a whole conversation; None where only the engine has seen
            them.
        among: scopes of the probes that were asked; probes of answers say nothing of a prompt.
    """
    return {
        name: _why(token_ids, scope)
        for name, scope in scopes.items()
        if name not in judged and scope in among
    }


def _why(token_ids: Sequence[int] | None, scope: Scope) -> str:
    if token_ids is None:
        return f"the prompt has no words of the scope {scope!r}, or {UNTOLD}"
    return absent(as_tokens(token_ids), scope) or UNTOLD
