"""What a gate on ToxicChat owes to chance, length and wording, and what it makes of other sources.

    python -m benchmarks.real [--curves 2] [--sample 200] [--needles 30] [--cache FOLDER]
    python -m benchmarks.real --locked

The study of `pillion bench real`: trained on ToxicChat, asked about its test, OpenAI's moderation
set and XSTest by type. Everything is chosen on a tenth of the training rows. The first form is for
development: a fifth of the training rows stands for the test and no other source is read.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from benchmarks.result_file import DATA, write_content
from pillion.data import LabelSpace, Rows, read_rows, split_validation
from pillion.runtime import LanguageModel
from pillion_bench.real.settings import Other, RealSettings
from pillion_bench.real.study import study

HELD_BACK, HELD_BACK_SEED = 0.2, 1
"""What stands for the test in development: another draw than that of a probe's validation rows."""

TOXICCHAT = DATA / "toxicchat_0124_human"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curves", type=int, default=2, help="draws of the learning curves")
    parser.add_argument("--sample", type=int, default=200, help="rows of every change of wording")
    parser.add_argument("--needles", type=int, default=30, help="texts hidden in long ones")
    parser.add_argument("--cache", type=Path, help="keep hidden states of train and test here")
    parser.add_argument("--locked", action="store_true", help="read test rows and other sources")
    options = parser.parse_args()
    settings = RealSettings(
        scope="all",
        curve_seeds=options.curves,
        sample=options.sample,
        needles=options.needles,
        cache=options.cache,
    )
    train, test, others = locked_rows() if options.locked else development_rows()
    split, name = ("test", "") if options.locked else ("validation", "-validation")
    with tempfile.TemporaryDirectory() as work:
        found = study(LanguageModel.load(), train, test, others, Path(work), settings)
    write_content({**found, "name": f"real-toxicchat{name}", "split": split})


def locked_rows() -> tuple[Rows, Rows, list[Other]]:
    """Training rows, test rows, and sets of other sources."""
    kinds = read_rows(DATA / "xstest" / "all.parquet", label_column="type").labels
    others = [
        Other("OpenAI moderation", read_rows(DATA / "openai_moderation" / "test.parquet")),
        Other("XSTest", read_rows(DATA / "xstest" / "all.parquet"), tuple(map(str, kinds or ()))),
    ]
    train, test = (read_rows(TOXICCHAT / f"{split}.parquet") for split in ("train", "test"))
    return train, test, others


def development_rows() -> tuple[Rows, Rows, list[Other]]:
    """The training rows in two parts, the second in the place of the test; no other source."""
    rows = read_rows(TOXICCHAT / "train.parquet")
    labels = rows.labels or ()
    parts = split_validation(LabelSpace.of(labels).encode(labels), HELD_BACK, HELD_BACK_SEED)

    def part(ids: Iterable[int]) -> Rows:
        kept = [int(row) for row in ids]
        texts, own = (tuple(cells[row] for row in kept) for cells in (rows.texts, labels))
        return replace(rows, texts=texts, labels=own)

    return part(parts[0]), part(parts[1]), []


if __name__ == "__main__":
    main()
