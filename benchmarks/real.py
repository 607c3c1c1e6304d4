"""What a gate on ToxicChat owes to chance, length and wording, and what it makes of other sources.

    python -m benchmarks.real [--curves 2] [--sample 200] [--needles 30] [--cache FOLDER]

The study of `pillion bench real`: trained on ToxicChat, asked about its test, OpenAI's moderation
set and XSTest by type. Everything is chosen on a tenth of the training rows.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.result_file import DATA, write_content
from pillion.data import read_rows
from pillion.evals.real.settings import Other, RealSettings
from pillion.evals.real.study import study
from pillion.runtime import LanguageModel

TOXICCHAT = DATA / "toxicchat_0124_human"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curves", type=int, default=2, help="draws of the learning curves")
    parser.add_argument("--sample", type=int, default=200, help="rows of every change of wording")
    parser.add_argument("--needles", type=int, default=30, help="texts hidden in long ones")
    parser.add_argument("--cache", type=Path, help="keep hidden states of train and test here")
    options = parser.parse_args()
    settings = RealSettings(
        curve_seeds=options.curves,
        sample=options.sample,
        needles=options.needles,
        cache=options.cache,
    )
    kinds = read_rows(DATA / "xstest" / "all.parquet", label_column="type").labels
    others = [
        Other("OpenAI moderation", read_rows(DATA / "openai_moderation" / "test.parquet")),
        Other("XSTest", read_rows(DATA / "xstest" / "all.parquet"), tuple(map(str, kinds or ()))),
    ]
    rows = [read_rows(TOXICCHAT / f"{split}.parquet") for split in ("train", "test")]
    with tempfile.TemporaryDirectory() as work:
        found = study(LanguageModel.load(), *rows, others, Path(work), settings)
    write_content({**found, "name": "real-toxicchat"})


if __name__ == "__main__":
    main()
