"""Runs the canaries of riding probes through a serving engine, as its requests run.

Speaks to any engine by its contract.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pillion.core import PROMPT_SCOPES, PromptRead, Tokens, Verdict
from pillion.errors import MismatchError
from pillion.probe import Artefact
from pillion.runtime.canaries import ADVICE, Checked, canary_rows, compared
from pillion.runtime.engine import Engine, Request, chosen


async def check_engine(engine: Engine, names: Sequence[str] | None = None) -> list[Checked]:
    """Runs the canaries of the probes that ride on an engine, as requests beside each other.

    Args:
        engine: started; it may be serving.
        names: of the probes to check; None for all.

    Raises:
        MismatchError: a probe says something else than it did, naming it and by how much.
        RunError: the engine has failed.
    """
    out = list[Checked]()
    for artefact in chosen(engine.probes, names):
        if (rows := canary_rows(artefact, engine.codec)) is None:
            out.append(Checked(artefact.name, None))
            continue
        found = await _verdicts(engine, artefact, rows)
        out.append(compared(artefact, found, engine.dtype))
    return out


async def _verdicts(engine: Engine, artefact: Artefact, rows: Sequence[Tokens]) -> list[Verdict]:
    """Of prompts as the engine reads prompts, of answers as it classifies."""
    name = artefact.name
    if artefact.card.scope not in PROMPT_SCOPES:
        return [row[name] for row in await engine.classify(rows, [name])]

    async def read(number: int, row: Tokens) -> Verdict:
        request = Request(f"canary-{name}-{number}", row, max_tokens=1)
        verdict = None
        async for event in engine.submit(request):
            if isinstance(event, PromptRead):
                verdict = event.verdicts.get(name)
        if verdict is None:  # a cached prefix that others have filled may not tell whose words
            verdict = (await engine.classify([row], [name]))[0].get(name)
        if verdict is None:
            raise MismatchError(
                f"Probe {name!r} gives no verdict on its canary text {number + 1} here, and did "
                f"when it was trained. {ADVICE}"
            )
        return verdict

    return list(await asyncio.gather(*(read(i, row) for i, row in enumerate(rows))))
