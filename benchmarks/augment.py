"""Decisions that other letters turn over, by a gate that learnt from changed copies and by one not.

    python -m benchmarks.augment [--rows N] [--held N]

Development only: ToxicChat training rows. As many rows of each label are held out of them and read
as they are and in other letters; both gates learn from the same other rows, at one seed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.result_file import DATA, data_entry, write_result
from pillion.core import Verdict
from pillion.data import Rows, read_rows
from pillion.data.changes import perturbed
from pillion.fit import FitSettings, fit
from pillion.metrics import evaluate
from pillion.probe import Artefact
from pillion.runtime import LanguageModel
from pillion.train import ProbeConfig

CHAT = DATA / "toxicchat_0124_human" / "train.parquet"
MAX_CHARACTERS = 600
KINDS = ("case", "spaces", "leet", "typos")
READ = ("upper case", "leetspeak", "spaces in words", "polite template")
"""The last one stands for what no copy was changed by."""
WAYS = {"plain": (), "with copies": KINDS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400, help="to learn from")
    parser.add_argument("--held", type=int, default=60, help="held out of each label")
    options = parser.parse_args()
    training, held = drawn(options.rows, options.held)
    model = LanguageModel.load()
    probes = [trained(model, training, kinds) for kinds in WAYS.values()]
    named = [Artefact(way, one.card, one.network) for way, one in zip(WAYS, probes, strict=True)]
    texts = [str(text) for text in held.texts]
    truth = np.array([int(label == "toxic") for label in held.labels or ()])
    plain = model.score(texts, named)
    rows = found("as they are", plain, plain, truth)
    for name in READ:
        said = model.score(perturbed(name, texts, 0), named, on_too_long="truncate-tail")
        rows += found(name, said, plain, truth)
    settings = {
        "model": "embedded",
        "probe": "gate",
        "rows": len(training),
        "held_of_each_label": options.held,
        "max_characters": MAX_CHARACTERS,
        "augment": list(KINDS),
    }
    data = [data_entry(CHAT, "train, a part")]
    write_result("augment", rows, seed=0, settings=settings, data=data)


def drawn(num_rows: int, num_held: int) -> tuple[Rows, Rows]:
    """Rows to learn from, and as many of each label that are held out of them."""
    rows = read_rows(CHAT)
    shuffled = np.random.default_rng(0).permutation(len(rows))
    short = [row for row in shuffled if len(rows.texts[row]) <= MAX_CHARACTERS]
    labels = rows.labels or ()
    sides = [[row for row in short if labels[row] == name] for name in ("toxic", "non-toxic")]
    held = [row for side in sides for row in side[-num_held:]]
    gone = {str(rows.texts[row]).casefold() for row in held}
    rest = [row for row in short if str(rows.texts[row]).casefold() not in gone]
    return rows.some(rest[:num_rows]), rows.some(held)


def trained(model: LanguageModel, rows: Rows, kinds: tuple[str, ...]) -> Artefact:
    with tempfile.TemporaryDirectory() as folder:
        settings = FitSettings(augment=kinds)
        (one,) = fit(model, rows, None, [ProbeConfig()], Path(folder), settings)
    return one.artefact


def found(
    name: str,
    said: Sequence[dict[str, Verdict]],
    plain: Sequence[dict[str, Verdict]],
    truth: np.ndarray,
) -> list[dict[str, Any]]:
    """Share of decisions turned over, and AUROC, of either probe."""
    rows: list[dict[str, Any]] = []
    for way in WAYS:
        flips = [one[way].label != other[way].label for one, other in zip(said, plain, strict=True)]
        probs = np.array([[one[way].probs["toxic"]] for one in said])
        auroc = evaluate(probs, truth, "binary", names=["auroc"])["auroc"]
        rows.append({"metric": "turned_over", "way": way, "read": name, "value": np.mean(flips)})
        rows.append({"metric": "auroc", "way": way, "read": name, "value": auroc})
        print(rows[-2:], flush=True)
    return rows


if __name__ == "__main__":
    main()
