"""Builds the reference of pillion's names for Python from their docstrings.

python docs/reference.py [FOLDER]     default: build/reference; needs pdoc (the extra dev)
"""

from __future__ import annotations

import sys
from pathlib import Path

import pillion

MODULES = (
    *("pillion", "pillion.core", "pillion.errors", "pillion.data", "pillion.examples"),
    *("pillion.metrics", "pillion.backends", "pillion.cache", "pillion.probe", "pillion.runtime"),
    *(
        "pillion.policies",
        "pillion.sharing",
        "pillion.extract",
        "pillion.train",
        "pillion.select",
        "pillion.evals",
    ),
    *("pillion.scoring", "pillion.fit", "pillion.api", "pillion.sklearn", "pillion.labelling"),
    *("pillion.report", "pillion.serve", "pillion.vllm"),
)
"""Parts with an interface for others: what a part names in `__all__`, and no file inside it."""


def build(folder: Path) -> None:
    """Writes one page a part."""
    import pdoc
    import pdoc.render

    for name in pillion.__all__:  # imported when they are first used, which pdoc does not do
        setattr(pillion, name, getattr(pillion, name))
    pdoc.render.configure(docformat="google")
    pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    target = Path(*sys.argv[1:2] or ["build/reference"])
    build(target)
    print(f"Open {target / 'index.html'}.")
