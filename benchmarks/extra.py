"""The tests that want a machine for themselves, with a record: `make test-extra`.

A real Chromium, Ray nodes that are started and killed, and clients of other projects, installed
from the registries. What ran lies in `results/test-extra.json`, which belongs into the commit:
`tests/test_extra_record.py` fails where the record is old, incomplete, or of other tests and parts
than those that are there.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.result_file import write_result

ROOT = Path(__file__).parents[1]
MARKERS = ("ray", "browser", "clients")
PARTS = (
    "src/pillion/cluster",
    "src/pillion/serve/page",
    "src/pillion/report/templates",
    "recipes/litellm.yaml",
    "recipes/serve_on_ray.py",
    "tests/clients",
)
"""What these tests alone see run; the rest is seen by others too."""
MOST_DAYS = 30
"""That a record may be old."""
_MARKED = re.compile(rf"pytest\.mark\.({'|'.join(MARKERS)})\b")


def files_of_the_tier() -> dict[str, str]:
    """Test files with one of the markers, each with its hash."""
    found = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [path for path in found if _MARKED.search(path.read_text(encoding="utf-8"))]
    return {str(path.relative_to(ROOT)): _digest([path]) for path in marked}


def parts() -> dict[str, str]:
    """The hash of each part."""
    return {part: _digest([ROOT / part, *sorted((ROOT / part).rglob("*"))]) for part in PARTS}


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def counted(report: Path) -> list[dict[str, Any]]:
    """Of each test file, how many of its tests passed, of how many."""
    passed, ran = Counter[str](), Counter[str]()
    for case in ET.parse(report).iter("testcase"):
        name = case.get("file") or f"{case.get('classname', '')}.{case.get('name')}"
        ran[name] += 1
        passed[name] += not any(
            case.find(way) is not None for way in ("failure", "error", "skipped")
        )
    return [
        {
            "metric": "passed",
            "file": name,
            "value": passed[name],
            "baseline": count,
            "ratio": passed[name] / count,
            "interval": None,
        }
        for name, count in sorted(ran.items())
    ]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    before, began = (files_of_the_tier(), parts()), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = ["-m", " or ".join(MARKERS), "-o", "junit_family=xunit1", f"--junitxml={report}"]
        done = subprocess.run([sys.executable, "-m", "pytest", *words, *before[0]], cwd=ROOT)
        results = counted(report)
    seconds = round(time.monotonic() - began)
    settings = {"seconds": seconds, "files": before[0], "parts": before[1]}
    write_result("test-extra", results, seed=0, settings=settings)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
