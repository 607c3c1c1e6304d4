"""Every method on every data set of a suite: `pillion bench accuracy`, into `results/` and docs.

    python -m benchmarks.accuracy [toxicchat] [--suite FILE] [--run FOLDER] [--states FOLDER]
    python -m benchmarks.accuracy --locked
    python -m benchmarks.accuracy --locked --model FILE.gguf --name qwen

The first is for development: it reads no test row, writes `accuracy-NAME-validation.json` and
prints tables. The second is run once a release, on a commit: it reads the test rows, writes
`accuracy-NAME.json` with the commit and every choice, and the tables of `docs/results.md`; of
another suite than the one that ships it prints them. A run that was interrupted goes on where it
was, if `--run` names the same folder.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.result_file import DATA, RESULTS, check_locked, write_content
from pillion_bench.accuracy import RunSettings, bench_accuracy
from pillion_bench.report import AccuracyResult, plain_table, read_result, write_accuracy_page
from pillion_bench.suite import DEFAULT, load_suite
from pillion_bench.summary import with_reads

PAGE = Path(__file__).parents[1] / "docs" / "results.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="*", help="data sets of the suite; all by default")
    parser.add_argument("--suite", default=DEFAULT)
    parser.add_argument("--model", help="another language model than the suite's")
    parser.add_argument("--name", help="of it, at the end of the names of its data sets and files")
    parser.add_argument("--methods", nargs="*", default=[], help="all by default")
    parser.add_argument("--run", type=Path, help="keep the cells of the run here")
    parser.add_argument("--states", type=Path, help="keep hidden states here")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--locked", action="store_true", help="read the test rows, too")
    options = parser.parse_args()
    if bool(options.model) != bool(options.name):
        parser.error("--model and --name go together: the files of two models are two")
    if options.locked:
        check_locked()
    suite, data = load_suite(options.suite), options.data
    if options.model:
        suite = suite.on_model(options.model, options.name)
        data = [f"{one}-{options.name}" for one in data]
    with run_folder(options.run) as folder:
        settings = RunSettings(
            root=DATA,
            out=folder,
            states=options.states,
            data=data,
            methods=options.methods,
            times=options.times,
            locked=options.locked,
        )
        found = bench_accuracy(suite, settings)
        written = [keep(read_result(path)) for path in found]
    if options.locked and options.suite == DEFAULT:
        return write_accuracy_page(written, PAGE)
    for path in written:
        print("\n".join([path.stem, *plain_table(AccuracyResult(read_result(path)))]))


def keep(content: dict[str, Any]) -> Path:
    """Writes a result file; one of test rows says how often these were read."""
    earlier = RESULTS / f"{content['name']}.json"
    if earlier.exists():
        content = with_reads(content, read_result(earlier))
    return write_content(content)


@contextmanager
def run_folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


if __name__ == "__main__":
    main()
