"""What stands behind a text, so that its tokens read it: does a gate that sees them tell more?

    python -m benchmarks.suffixes sst2|toxicchat [--rows N] [--folds N] [--states FOLDER]
    python -m benchmarks.suffixes sst2 --model FILE.gguf --name NAME

Development only: rows of a training file, dealt into folds. Every way reads the same rows, each
with words of its own behind it, and trains the same gates; what a way says of the rows that are
held out is put together and measured as one. Many of SST-2's phrases are parts of others, which
folds do not keep together: its numbers compare ways, and are none of unseen sentences. The words
are a question, or a sentence that one word would end (PromptEOL, Jiang et al. 2023, arXiv
2307.16645); words without a meaning are the control, since more tokens alone are more layers of
thought.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy import run_folder
from benchmarks.folds import (
    CHOOSING,
    EVERY,
    SEEDS,
    Learning,
    Way,
    drawn,
    measured,
    out_of_fold,
    plain,
)
from benchmarks.result_file import DATA, data_entry, write_result
from benchmarks.states import every_layer, kept_layers
from pillion.backends import load_backend
from pillion.core import Template, defaults
from pillion.data import LabelSpace, read_rows
from pillion.extract import StateSource


@dataclass(frozen=True)
class Set:
    """Rows and the words behind them.

    Attributes:
        file: below the data folder.
        positive: the label that is looked for.
        template: how the model is shown a row.
        suffixes: by the name of their way.
    """

    file: str
    positive: str
    template: Template
    suffixes: Mapping[str, str]


SETS = {
    "sst2": Set(
        "sst2/train.parquet",
        "positive",
        "raw",
        {
            "plain": "",
            "without a meaning": " . . . . . . . .",
            "in one word": "\nThis sentence means in one word:",
            "a question": "\nIs this review positive or negative? It is",
        },
    ),
    "toxicchat": Set(
        "toxicchat_0124_human/train.parquet",
        "toxic",
        "chat",
        {"plain": "", "a question": "\n\nIs this message toxic? Answer in one word."},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=SETS)
    parser.add_argument("--rows", type=int, help="drawn of the file; default: all")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--states", type=Path, help="keep hidden states here")
    parser.add_argument("--model", default=defaults.MODEL, help="a name, a folder or a GGUF file")
    parser.add_argument("--name", default="", help="of another model, in the name of its file")
    options = parser.parse_args()
    if (options.model == defaults.MODEL) == bool(options.name):
        parser.error("--name is of a model other than the embedded one, and such a model needs one")
    chosen, backend = SETS[options.data], load_backend(options.model)
    rows = drawn(read_rows(DATA / chosen.file), options.rows)
    space = LabelSpace.of(rows.labels or (), chosen.positive)
    targets = space.encode(rows.labels or ())
    layers = every_layer(backend, EVERY)
    with run_folder(options.states) as folder, ExitStack() as opened:
        ways = dict[str, tuple[StateSource, Way]]()
        for way, suffix in chosen.suffixes.items():
            texts = [f"{text}{suffix}" for text in rows.texts]
            source = kept_layers(backend, texts, chosen.template, layers, folder / way, opened)
            ways[way] = source, plain
        learning = Learning(space.task, len(space.names))
        said = out_of_fold(ways, targets, rows.texts, options.folds, learning)
    settings = {
        "model": options.name or defaults.MODEL,
        "probe": "gate",
        "rows": len(rows),
        "layers": list(layers),
        "template": chosen.template,
        "scope": "all",
        "suffixes": dict(chosen.suffixes),
        "folds": options.folds,
        "choosing_share": CHOOSING,
        "seeds": list(SEEDS),
    }
    data = [data_entry(DATA / chosen.file, "train, in folds")]
    name = "-".join(filter(None, ["suffixes", options.data, options.name, "validation"]))
    write_result(
        name, list(measured(said, targets, space.task)), seed=0, settings=settings, data=data
    )


if __name__ == "__main__":
    main()
