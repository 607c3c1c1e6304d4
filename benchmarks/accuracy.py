"""Every method on every data set of a suite: `pillion bench accuracy`, into `results/` and docs.

    python -m benchmarks.accuracy [toxicchat] [--suite FILE] [--run FOLDER] [--states FOLDER]

A run that was interrupted goes on where it was, if `--run` names the same folder.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.result_file import DATA, write_content
from pillion.evals.accuracy import RunSettings, bench_accuracy
from pillion.evals.suite import DEFAULT, load_suite
from pillion.report import read_result, write_accuracy_page

PAGE = Path(__file__).parents[1] / "docs" / "results.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="*", help="data sets of the suite; all by default")
    parser.add_argument("--suite", default=DEFAULT)
    parser.add_argument("--methods", nargs="*", default=[], help="all by default")
    parser.add_argument("--run", type=Path, help="keep the cells of the run here")
    parser.add_argument("--states", type=Path, help="keep hidden states here")
    parser.add_argument("--times", type=int, default=20)
    options = parser.parse_args()
    with run_folder(options.run) as folder:
        settings = RunSettings(
            root=DATA,
            out=folder,
            states=options.states,
            data=options.data,
            methods=options.methods,
            times=options.times,
        )
        found = bench_accuracy(load_suite(options.suite), settings)
        written = [write_content(read_result(path)) for path in found]
    write_accuracy_page(written, PAGE)


@contextmanager
def run_folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


if __name__ == "__main__":
    main()
