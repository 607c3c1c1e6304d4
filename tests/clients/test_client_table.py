"""The table of clients in docs/serve.md names what is tried, in the versions that are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from environments import NODE, PROGRAMS, PYTHON

ROOT = Path(__file__).parents[2]


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = (re.fullmatch(r"(@?[^@=]+)(?:==|@)(.+)", one) for one in packages)
    return {one[1]: one[2] for one in found if one}


def test_the_table_has_every_client_in_the_version_that_is_tried() -> None:
    text = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    rows = text.split("\n| client |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    told = [(cells[1], cells[2]) for cells in (row.split("|") for row in rows)]
    wanted = [*PYTHON.values(), *NODE.values()]
    assert len(told) == len(wanted)
    for packages in wanted:
        pinned = versions(packages)
        assert len(pinned) == len(packages)
        name, version = next(iter(pinned.items()))
        (row,) = (n for n, v in told if f"`{name}`" in n and version == v.strip())
        # What else is named with a version has that of the test.
        others = re.findall(r"`([^`]+)` ([\d.]+)", row)
        assert dict(others).items() <= pinned.items(), (row, pinned)


def test_every_program_says_what_it_asks() -> None:
    assert {path.stem for path in PROGRAMS.iterdir()} >= {f"ask_{name}" for name in PYTHON} - {
        "ask_litellm_proxy"
    }
    for path in PROGRAMS.glob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text("utf-8")))
