"""One set against two: ToxicChat alone, and with half of OpenAI's moderation set joined to it.

    python -m benchmarks.sets [--chat N] [--moderation N] [--splits N] [--cache FOLDER]

Development only: of ToxicChat training rows alone, of the moderation set one half; the other half
and every test row stay unread by any probe. In each of several splits two fifths of either set are
held out; the gate learns from the rest, where a fifth chooses the epoch, and is measured on what is
held out of both sets.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import run_folder
from benchmarks.result_file import DATA, data_entry, write_result
from pillion.backends import load_backend
from pillion.data import DataSet, LabelSpace, Rows, join_sets, read_rows, set_weights
from pillion.data import split_validation as split
from pillion.extract import SelectedRows, StateSource, kept_states
from pillion.metrics import evaluate
from pillion.runtime import encode_rows
from pillion.train import Examples, ProbeConfig, TrainSettings, evaluate_source, train

CHAT = DATA / "toxicchat_0124_human" / "train.parquet"
MODERATION = DATA / "openai_moderation" / "test.parquet"
MAX_CHARACTERS = 600
HELD, CHOOSING = 0.4, 0.2
NAMES = ("chat", "moderation")
WAYS: dict[str, tuple[tuple[str, ...], float | None]] = {
    "chat": (("chat",), None),
    "moderation": (("moderation",), None),
    "both": (NAMES, None),
    "both, half the loss each": (NAMES, 0.5),
}
"""Sets that are learnt from, and the share of the second in the loss."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chat", type=int, default=600, help="rows of ToxicChat")
    parser.add_argument("--moderation", type=int, default=300, help="rows of the half")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--cache", type=Path, help="keep hidden states here")
    options = parser.parse_args()
    rows = joined(options.chat, options.moderation)
    backend = load_backend()
    tokens = encode_rows(backend, rows.texts, "chat", scopes=["last-user"])
    layers = tuple(range(backend.identity.num_layers + 1))
    with run_folder(options.cache) as cache:
        source = kept_states(
            backend, tokens, layers, cache / "rows", "chat", "error", scope="last-user"
        )
        with source.reader:
            found = [measured(source, rows, seed) for seed in range(options.splits)]
    settings = {
        "model": "embedded",
        "probe": "gate",
        "rows": {one.name: one.num_rows for one in rows.sets},
        "max_characters": MAX_CHARACTERS,
        "splits": options.splits,
        "held_share": HELD,
        "choosing_share": CHOOSING,
    }
    data = [data_entry(CHAT, "train, a part"), data_entry(MODERATION, "half, a part")]
    write_result("sets", results(found), seed=0, settings=settings, data=data)


def joined(num_chat: int, num_moderation: int) -> Rows:
    """Rows of both sets under the labels of the first, drawn by a fixed seed."""
    chat, moderation = short(read_rows(CHAT)), read_rows(MODERATION)
    half, _ = halves(len(moderation))
    return join_sets(
        [
            DataSet("chat", drawn(chat, num_chat)),
            DataSet(
                "moderation",
                drawn(short(moderation.some(half)), num_moderation),
                {"flagged": "toxic", "safe": "non-toxic"},
            ),
        ]
    )


def halves(num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the moderation set that may be learnt from, and those that locked runs alone read."""
    order = np.random.default_rng(0).permutation(num_rows)
    return order[: num_rows // 2], order[num_rows // 2 :]


def short(rows: Rows) -> Rows:
    return rows.some([n for n, text in enumerate(rows.texts) if len(text) <= MAX_CHARACTERS])


def drawn(rows: Rows, count: int) -> Rows:
    return rows.some(np.sort(np.random.default_rng(0).permutation(len(rows))[:count]))


def measured(source: StateSource, rows: Rows, seed: int) -> dict[tuple[str, str, str], float]:
    """(way, set, metric) -> value on what one split holds out."""
    labels = rows.labels or ()
    space = LabelSpace.of(labels, None, rows.several)
    ids, whose = space.encode(labels), np.array(rows.set_ids)
    # Strata of set and label, so that either side has its share of both.
    learnt, held = split(ids + 2 * whose, HELD, seed, rows.groups)
    found: dict[tuple[str, str, str], float] = {}
    for way, (names, share) in WAYS.items():
        own = learnt[np.isin(whose[learnt], [NAMES.index(name) for name in names])]
        inner, choosing = split(ids[own] + 2 * whose[own], CHOOSING, seed)
        parts = [examples(source, rows, ids, own[part], share) for part in (inner, choosing)]
        settings = TrainSettings()
        config = ProbeConfig(seed=seed).at_batch(settings.rows_a_step(len(inner)))
        (trained,) = train(*parts, space.task, 2, [config], settings)
        for at, name in enumerate(NAMES):
            told = held[whose[held] == at]
            probs = evaluate_source(trained.network, SelectedRows(source, told), space.task)
            metrics = evaluate(probs.cpu().numpy(), ids[told], space.task)
            found |= {
                (way, name, metric): value
                for metric in ("auprc", "auroc")
                if (value := metrics[metric]) is not None
            }
    print(seed, found, flush=True)
    return found


def examples(
    source: StateSource, rows: Rows, ids: np.ndarray, row_ids: np.ndarray, share: float | None
) -> Examples:
    some = rows.some(row_ids)
    if share is None:
        return Examples(SelectedRows(source, row_ids), ids[row_ids])
    shares = (1 - share, share)
    weighed = rows_with(some, shares)
    return Examples(SelectedRows(source, row_ids), ids[row_ids], set_weights(weighed))


def rows_with(rows: Rows, shares: Sequence[float]) -> Rows:
    sets = tuple(replace(one, share=part) for one, part in zip(rows.sets, shares, strict=True))
    return replace(rows, sets=sets)


def results(found: Sequence[dict[tuple[str, str, str], float]]) -> list[dict[str, Any]]:
    """Means over splits, the least and the most; and what is won over the set alone, likewise."""
    rows: list[dict[str, Any]] = []
    for way, name, metric in found[0]:
        values = np.array([one[way, name, metric] for one in found])
        alone = np.array([one[name, name, metric] for one in found])
        rows.append(
            {"metric": metric, "learnt_from": way, "held_out": name, "value": values.mean()}
            | {"least": values.min(), "most": values.max()}
            | {"won": (values - alone).mean(), "won_least": (values - alone).min()}
            | {"won_most": (values - alone).max()}
        )
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    main()
