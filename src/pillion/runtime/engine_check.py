"""Runs the canaries of riding probes through a serving engine, as its requests run.

Speaks to any engine by its contract.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from pillion.core import PROMPT_SCOPES, PromptRead, Tokens, Verdict
from pillion.errors import MismatchError
from pillion.probe import Artefact
from pillion.runtime.canaries import ADVICE, Checked, canary_rows, compared
from pillion.runtime.engine import Engine, Request, chosen

Rows = Mapping[str, Sequence[Tokens]]
"""Of each probe, its canaries."""
Said = dict[tuple[int, ...], Mapping[str, Verdict]]
"""Of each row, what all probes say."""


async def check_engine(engine: Engine, names: Sequence[str] | None = None) -> list[Checked]:
    """Runs the canaries of the probes that ride on an engine, as requests beside each other.

    A text runs once, however many probes have it: those of one scope and template have the same.

    Args:
        engine: started; it may be serving.
        names: of the probes to check; None for all.

    Raises:
        MismatchError: a probe says something else than it did, naming it and by how much.
        RunError: the engine has failed.
    """
    artefacts = chosen(engine.probes, names)
    rows = {one.name: canary_rows(one, engine.codec) for one in artefacts}
    found = await _verdicts(engine, artefacts, {n: own for n, own in rows.items() if own})
    return [
        compared(one, found[one.name], engine.dtype)
        if one.name in found
        else Checked(one.name, None)
        for one in artefacts
    ]


async def _verdicts(
    engine: Engine, artefacts: Sequence[Artefact], rows: Rows
) -> dict[str, list[Verdict]]:
    """Of prompts as the engine reads prompts, of answers as it classifies."""
    asked = {one.name for one in artefacts if one.card.scope in PROMPT_SCOPES}
    said = await _prompts(engine, {name: own for name, own in rows.items() if name in asked})
    # A cached prefix that others have filled may not tell its turns.
    lost = {
        name: [row for row in own if name not in said.get(row, {})] for name, own in rows.items()
    }
    read = await _texts(engine, {name: own for name, own in lost.items() if own})
    out = dict[str, list[Verdict]]()
    for name, own in rows.items():
        for number, row in enumerate(own, start=1):
            verdict = said.get(row, {}).get(name, read.get(row, {}).get(name))
            if verdict is None:
                raise MismatchError(
                    f"Probe {name!r} gives no verdict on its canary text {number} here, and did "
                    f"when it was trained. {ADVICE}"
                )
            out.setdefault(name, []).append(verdict)
    return out


async def _prompts(engine: Engine, rows: Rows) -> Said:
    async def read(number: int, row: Tokens) -> Mapping[str, Verdict]:
        said: Mapping[str, Verdict] = {}
        async for event in engine.submit(Request(f"canary-{number}", row, max_tokens=1)):
            if isinstance(event, PromptRead):
                said = event.verdicts
        return said

    once = _once(rows)
    found = await asyncio.gather(*(read(number, row) for number, row in enumerate(once)))
    return dict(zip(once, found, strict=True))


async def _texts(engine: Engine, rows: Rows) -> Said:
    once = _once(rows)
    if not once:
        return {}
    # Canaries on the card were read whole, too.
    return dict(zip(once, await engine.classify(once, list(rows), whole=True), strict=True))


def _once(rows: Rows) -> list[Tokens]:
    return list(dict.fromkeys(row for own in rows.values() for row in own))
