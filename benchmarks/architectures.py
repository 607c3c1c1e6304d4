"""Which architectures are read exactly, and by which way: `python -m benchmarks.architectures`.

Every causal LM that transformers can build tiny; an interrupted run goes on. Writes
`results/architectures.json`, and `docs/models.md` from it.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.result_file import RESULTS as FOLDER
from benchmarks.result_file import write_result
from benchmarks.sweep.checks import CHECKS, EXACT, check_all
from benchmarks.sweep.shapes import architectures, tiny

ROOT = Path(__file__).parents[1]
RESULTS = FOLDER / "architectures.json"
PAGE = ROOT / "docs" / "models.md"
SHOWN = [name for name in CHECKS if not name.startswith("own_")]

HEAD = """# Which models are read

Written by `python -m benchmarks.architectures` from
[its result file](../benchmarks/results/architectures.json), never by hand: {built} causal LMs of
transformers {transformers}, built tiny with random weights in fp32 and read by every way. `exact`
is within {exact:g} of what the probe says of the text alone; `refused` is a sentence instead of a
verdict, at the latest when an engine starts; `own` marks what the model itself, without pillion,
computes otherwise than for the text alone, or fails at.

Exact in the library (padding, steps, chunks, `generate`, early exit): {library}. Exact in the
serving engine (batches, prefixes shared, classifying between steps): {engine}. Crashes: {crashes}.
Other numbers without an error: {wrong}.

| way | what runs |
|---|---|
{ways}

"""
LIBRARY = ("states", "left", "right", "steps", "chunks", "generate", "early_exit")
ENGINE = ("engine", "classify")
OWN = {
    "steps": ("own_chunks",),
    "chunks": ("own_chunks",),
    "generate": ("own_padding", "own_chunks", "own_generate"),
}
"""What the model must do by itself for a way to be exact."""


def main() -> None:
    """Sweeps what is not in the result file yet, then writes the page."""
    logging.disable(logging.CRITICAL)
    results: list[dict[str, Any]] = []
    if RESULTS.exists():
        results = json.loads(RESULTS.read_text())["results"]
    done = {entry["architecture"] for entry in results}
    for name in architectures():
        if name in done:
            continue
        begin = time.perf_counter()
        entry = {"metric": "verdicts", "architecture": name, **_checked(name)}
        results.append(entry | {"seconds": round(time.perf_counter() - begin, 1)})
        write_result("architectures", results, seed=0, settings={"exact": EXACT})
        print(name, *(_cell(entry, check) for check in SHOWN), flush=True)
    PAGE.write_text(page(json.loads(RESULTS.read_text())))


def _checked(name: str) -> dict[str, Any]:
    try:
        model = tiny(name)
    except Exception as error:  # what cannot be built tiny is told as such
        return {"not_built": f"{type(error).__name__}: {error}".split("\n")[0]}
    return check_all(model)


def page(content: Mapping[str, Any]) -> str:
    """The page of a result file."""
    results: list[dict[str, Any]] = content["results"]
    built = [entry for entry in results if not _is_absent(entry)]
    cells = {entry["architecture"]: [_cell(entry, check) for check in SHOWN] for entry in built}
    head = HEAD.format(
        exact=EXACT,
        built=len(built),
        transformers=content["versions"]["transformers"],
        library=sum(_all_exact(entry, LIBRARY) for entry in built),
        engine=sum(_all_exact(entry, ENGINE) for entry in built),
        crashes=sum("**crash**" in row for row in cells.values()),
        wrong=sum(any(c.startswith("**") and c != "**crash**" for c in r) for r in cells.values()),
        ways="\n".join(f"| {name} | {_says(name)} |" for name in SHOWN),
    )
    lines = [f"| architecture | {' | '.join(SHOWN)} |", "|---" * (len(SHOWN) + 1) + "|"]
    lines += [f"| `{name}` | {' | '.join(row)} |" for name, row in cells.items()]
    return head + "\n".join(lines) + "\n\n" + _reasons(built) + _absent(results)


def _says(check: str) -> str:
    """The first line of what a check says of itself."""
    return (CHECKS[check].__doc__ or "").strip().split("\n")[0]


def _is_absent(entry: Mapping[str, Any]) -> bool:
    return "not_built" in entry or "model" in entry


def _all_exact(entry: Mapping[str, Any], checks: Sequence[str]) -> bool:
    return all(_cell(entry, check) == "exact" for check in checks)


def _reasons(built: Sequence[Mapping[str, Any]]) -> str:
    """The sentences of refusals, and the architectures that are told each."""
    told: dict[str, list[str]] = {}
    for entry in built:
        name = entry["architecture"]
        for said in entry.values():
            if isinstance(said, dict) and "refused" in said:
                sentence = _without_names(said["refused"])
                if name not in told.setdefault(sentence, []):
                    told[sentence].append(name)
    lines = ["## Why some are refused", ""]
    lines += [f"- {sentence} ({', '.join(names)})" for sentence, names in sorted(told.items())]
    return "\n".join(lines) + "\n"


def _without_names(sentence: str) -> str:
    """A sentence without the class that it names, so that equal reasons stand once."""
    return re.sub(r"\b[A-Z][A-Za-z0-9]*(Model|ForCausalLM|Decoder|Attention|LM)\b", "...", sentence)


def _absent(results: Sequence[Mapping[str, Any]]) -> str:
    """Those that were not read, since they cannot be made so small."""
    names = [entry["architecture"] for entry in results if _is_absent(entry)]
    return f"\n## Not built\n\nCannot be built or run this small: {', '.join(names)}.\n"


def _cell(entry: Mapping[str, Any], check: str) -> str:
    if _is_absent(entry):
        return "not built"
    said = entry.get("attach") or entry[check]
    if "refused" in said:
        return "refused"
    own = any(not entry[one].get("error", 1.0) < EXACT for one in OWN.get(check, ()))
    if "crash" in said:
        return "own" if own else "**crash**"
    if said["error"] < EXACT:
        return "exact"
    return f"own ({said['error']:.0e})" if own else f"**{said['error']:.0e}**"


if __name__ == "__main__":
    main()
