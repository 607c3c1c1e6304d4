"""Which architectures are read exactly, and by which way: `python -m benchmarks.architectures`.

Every causal LM that transformers can build tiny; an interrupted run goes on. Writes
`results/architectures.json`, and `docs/models.md` from it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.sweep.checks import CHECKS, EXACT, check_all
from benchmarks.sweep.shapes import architectures, tiny

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "architectures.json"
PAGE = ROOT / "docs" / "models.md"
SHOWN = [name for name in CHECKS if not name.startswith("own_")]

HEAD = """# Which models are read

Written by `python -m benchmarks.architectures` from `benchmarks/results/architectures.json`. Each
architecture was built tiny, with random weights in fp32, and read by every way; `exact` is
within {exact:g} of what the probe says of the text alone. `refused` is an error; `own`
marks what the model itself, without pillion, computes otherwise than for the text alone.

"""


def main() -> None:
    """Sweeps what is not in the result file yet, then writes the page."""
    logging.disable(logging.CRITICAL)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"results": []}
    done = {entry["architecture"] for entry in found["results"]}
    for name in architectures():
        if name in done:
            continue
        begin = time.perf_counter()
        entry = {"architecture": name, **_checked(name)}
        found["results"].append(entry | {"seconds": round(time.perf_counter() - begin, 1)})
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        print(name, *(_cell(entry, check) for check in SHOWN), flush=True)
    PAGE.write_text(page(found["results"]))


def _checked(name: str) -> dict[str, Any]:
    try:
        model = tiny(name)
    except Exception as error:  # what cannot be built tiny is told as such
        return {"not_built": f"{type(error).__name__}: {error}".split("\n")[0]}
    return check_all(model)


def page(results: list[dict[str, Any]]) -> str:
    """The page of a result file."""
    lines = [f"| architecture | {' | '.join(SHOWN)} |", "|---" * (len(SHOWN) + 1) + "|"]
    for entry in results:
        cells = [_cell(entry, check) for check in SHOWN]
        lines.append(f"| `{entry['architecture']}` | {' | '.join(cells)} |")
    return HEAD.format(exact=EXACT) + "\n".join(lines) + "\n"


def _cell(entry: Mapping[str, Any], check: str) -> str:
    if "not_built" in entry or "model" in entry:
        return "not built"
    said = entry.get("attach") or entry[check]
    if "refused" in said:
        return "refused"
    if "crash" in said:
        return "**crash**"
    if said["error"] < EXACT:
        return "exact"
    own = {"steps": "own_chunks", "chunks": "own_chunks", "generate": "own_padding"}.get(check)
    inexact = own and not entry[own].get("error", 1.0) < EXACT
    return f"own ({said['error']:.0e})" if inexact else f"**{said['error']:.0e}**"


if __name__ == "__main__":
    main()
