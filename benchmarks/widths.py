"""Would a narrow read that is asked first, and a wide one for the rest, pay beside a gate?

    python -m benchmarks.widths [--rows 2400] [--parts 1300 200 500] [--states FOLDER]

Gates of several widths (heads, layers) learn from the same states of ToxicChat's training file. Of
each: F1 on other rows of it at the threshold that is best on held rows, bytes of the side cache a
token, and processor time of its hooks in a prompt of 256 tokens. Then the best that a pair could
do: how many rows a narrow read leaves to the wide one where at most a hundredth is decided
otherwise. No test row is read. `widths-toxicchat.json`.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.exits import FILES, shuffled
from benchmarks.result_file import DATA, data_entry, write_result
from benchmarks.ride import probe, prompt
from pillion.backends import Backend, Step
from pillion.cache import Workspace
from pillion.data import LabelSpace, Rows, read_rows
from pillion.evals.bands import PRICES, DepthRows, choose_bands, likely_to_differ, sides_of
from pillion.extract import SelectedRows, StateSource, kept_states
from pillion.extract.source import Batch
from pillion.metrics import evaluate
from pillion.probe import Artefact
from pillion.runtime import LanguageModel, encode_rows, watch
from pillion.runtime.paged_reading import PagedReading
from pillion.train import (
    Examples,
    ProbeConfig,
    TrainSettings,
    choose_thresholds,
    evaluate_networks,
    train,
)

WIDE = "8 heads, every layer"
WIDTHS: dict[str, tuple[int, int, int]] = {
    WIDE: (8, 1, 31),
    "4 heads, every layer": (4, 1, 31),
    "2 heads, every layer": (2, 1, 31),
    "1 head, every layer": (1, 1, 31),
    "8 heads, every second layer": (8, 2, 31),
    "8 heads, every fourth layer": (8, 4, 31),
    "4 heads, every second layer": (4, 2, 31),
    "2 heads, every fourth layer": (2, 4, 31),
    "8 heads, layers to the middle": (8, 1, 16),
    "2 heads, layers to the middle": (2, 1, 16),
}
"""Heads, which layers of those up to where."""
SURE = 0.01
"""Share of rows that a pair may decide otherwise than the wide read."""
PAGE_TOKENS, NUM_PAGES, PROMPT_TOKENS, PASSES = 16, 256, 256, 9


class SomeLayers:
    """A source of which some layers are read."""

    def __init__(self, source: StateSource, places: Sequence[int]) -> None:
        self.source, self.places = source, list(places)
        self.layers = tuple(source.layers[place] for place in places)
        self.lengths, self.dim, self.reads_ahead = source.lengths, source.dim, source.reads_ahead

    def read_batch(self, row_ids: Sequence[int], workspace: Workspace | None = None) -> Batch:
        """See `StateSource.read_batch`."""
        hidden, mask = self.source.read_batch(row_ids, workspace)
        return hidden[self.places], mask


@dataclass(frozen=True)
class Data:
    """States and labels of every part."""

    train: Examples
    chosen_on: Examples
    held: Examples
    measured: Examples


def data_of(model: LanguageModel, rows: Rows, folder: Path, options: argparse.Namespace) -> Data:
    """Rows that were drawn by chance, parted in their order."""
    assert rows.labels is not None
    space, layers = LabelSpace.of(rows.labels), range(model.backend.identity.num_layers + 1)
    tokens = encode_rows(model.backend, rows.texts, "chat", "truncate-tail", scopes=["last-user"])
    how = ("chat", "truncate-tail")
    source = kept_states(model.backend, tokens, layers, folder, *how, scope="last-user")
    ids, ends = space.encode(rows.labels), np.cumsum([0, *options.parts])
    parts = [np.arange(*pair) for pair in itertools.pairwise([*ends, len(rows)])]
    return Data(*(Examples(SelectedRows(source, part), ids[part]) for part in parts))


def said_by(
    data: Data, names: Sequence[str], options: argparse.Namespace
) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """What gates of the same layers say of held and of measured rows, one a seed."""
    places = range(0, WIDTHS[names[0]][2], WIDTHS[names[0]][1])

    def of(part: Examples) -> Examples:
        return Examples(SomeLayers(part.source, places), part.targets)

    every = list(itertools.product(names, options.seeds))
    configs = [
        ProbeConfig(settings={"num_heads": WIDTHS[name][0]}, seed=seed) for name, seed in every
    ]
    settings = TrainSettings(epochs=options.epochs)
    trained = train(of(data.train), of(data.chosen_on), "binary", 2, configs, settings)
    networks, found = [one.network for one in trained], dict[str, Any]()
    probs = [
        evaluate_networks(networks, of(part).source, "binary")
        for part in (data.held, data.measured)
    ]
    for (name, _), held, measured in zip(every, *probs, strict=True):
        found.setdefault(name, []).append((held.double().numpy(), measured.double().numpy()))
    return found


def bytes_a_token(backend: Backend, artefact: Artefact) -> float:
    """What the side cache holds for each token that it has room for."""
    sizes = [
        PagedReading([artefact], backend.device, backend.dtype, pages, PAGE_TOKENS).side.held_bytes
        for pages in (NUM_PAGES, 2 * NUM_PAGES)
    ]
    return (sizes[1] - sizes[0]) / (NUM_PAGES * PAGE_TOKENS)


@torch.inference_mode()
def probe_seconds(backend: Backend, artefact: Artefact) -> float:
    """Processor time of the hooks in a prompt: the least of several passes."""
    dim, found = backend.identity.dim, list[float]()
    states = torch.randn(1, PROMPT_TOKENS, dim, generator=torch.Generator().manual_seed(0))
    states = states.to(backend.dtype)
    mask = torch.ones(1, PROMPT_TOKENS, dtype=torch.bool)
    with watch(backend, [artefact]) as reading:
        for _ in range(PASSES):
            begin = time.process_time()
            reading.start(Step(mask, None, 0))
            for layer in reading.layers:
                reading.see(layer, states)
            reading.end(None)
            reading.verdicts()
            found.append(time.process_time() - begin)
    return min(found)


def pass_seconds(backend: Backend) -> float:
    """Processor time of the same prompt without probes: the least of several passes."""
    found = list[float]()
    ids = torch.tensor([list(prompt(PROMPT_TOKENS, seed=0))])
    for _ in range(3):
        begin = time.process_time()
        backend.forward(ids, torch.ones_like(ids, dtype=torch.bool))
        found.append(time.process_time() - begin)
    return min(found)


def sure_cuts(
    narrow: np.ndarray, wide: np.ndarray, narrow_line: float, wide_line: float
) -> np.ndarray:
    """The cuts of the narrow read by which fewest rows need the wide one; see `evals.bands`."""
    differs = ((narrow >= narrow_line) != (wide >= wide_line))[:, 0]
    sides, cuts = sides_of("binary", narrow, np.array([narrow_line])), np.full(2, -np.inf)
    likely = likely_to_differ(sides, differs)[None]
    rows = DepthRows([sides], likely, np.zeros_like(likely, dtype=bool), np.array([0.0]))
    for price in PRICES.tolist():
        (found,) = choose_bands(rows, price)
        if (differs & (sides < found[:, None]).any(0)).mean() > SURE:
            break
        cuts = found
    return cuts


def _layers(name: str) -> tuple[int, int]:
    return WIDTHS[name][1:]


def measure(model: LanguageModel, data: Data, options: argparse.Namespace) -> list[dict[str, Any]]:
    backend, results = model.backend, list[dict[str, Any]]()
    whole = pass_seconds(backend)
    cost = {}
    for name, width in WIDTHS.items():
        heads, step, end = width
        layers = tuple(range(0, end, step))
        gate = probe(backend, "p", "gate", 1, layers=layers, num_heads=heads)
        cost[name] = (bytes_a_token(backend, gate), probe_seconds(backend, gate))
        print(name, cost[name], flush=True)
    said: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for _, names in itertools.groupby(sorted(WIDTHS, key=_layers), key=_layers):
        said |= said_by(data, list(names), options)
    for name in WIDTHS:
        each = []
        for held, measured in said[name]:
            lines = choose_thresholds("binary", torch.tensor(held), data.held.targets)
            f1 = evaluate(measured, data.measured.targets, "binary", lines, ("f1", "auprc"))
            each.append(f1)
        row: dict[str, Any] = {"width": name}
        row |= {f"{k}_each": [one[k] for one in each] for k in ("f1", "auprc")}
        row |= {k: statistics.mean(row[f"{k}_each"]) for k in ("f1", "auprc")}
        row |= {
            "bytes_a_token": cost[name][0],
            "bytes_ratio": cost[name][0] / cost[WIDE][0],
            "probe_seconds": cost[name][1],
            "probe_ratio": cost[name][1] / cost[WIDE][1],
            "share_of_the_pass": cost[name][1] / whole,
        }
        print(row, flush=True)
        results += [
            {"metric": k, "value": v, "width": name} for k, v in row.items() if k != "width"
        ]
    for name in WIDTHS:
        if name == WIDE:
            continue
        shares = []
        for (held, measured), (wide_held, _) in zip(said[name], said[WIDE], strict=True):
            lines = [
                choose_thresholds("binary", torch.tensor(one), data.held.targets)
                for one in (held, wide_held)
            ]
            assert lines[0] and lines[1]
            cuts = sure_cuts(held, wide_held, lines[0][0], lines[1][0])
            sides = sides_of("binary", measured, np.array(lines[0]))
            shares.append(1 - float((sides < cuts[:, None]).any(0).mean()))
        share = statistics.mean(shares)
        # Both reads beside each other, and the best that tapping for some rows alone could do.
        best = cost[name][1] + share * cost[WIDE][1]
        again = cost[name][1] + share * (whole + cost[WIDE][1])
        row = {
            "left_to_the_wide": share,
            "pair_probe_ratio_at_best": best / cost[WIDE][1],
            "pair_with_a_second_pass_ratio": again / cost[WIDE][1],
            "pair_bytes_ratio": (cost[name][0] + cost[WIDE][0]) / cost[WIDE][0],
        }
        print(name, row, flush=True)
        results += [{"metric": k, "value": v, "width": name} for k, v in row.items()]
    results.append({"metric": "pass_seconds", "value": whole, "width": "no probe"})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2400)
    parser.add_argument(
        "--parts",
        type=int,
        nargs=3,
        default=[1300, 200, 500],
        help="rows to learn from, to choose the epoch on, and thresholds and cuts; the others are "
        "measured",
    )
    parser.add_argument("--max-tokens", type=int, default=200, help="longer texts are left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--states", type=Path, help="keep hidden states here")
    options = parser.parse_args()
    model = LanguageModel.load(options.model)
    train_file = DATA / FILES["toxicchat"][0]
    rows = shuffled(read_rows(train_file), model, options.max_tokens).some(range(options.rows))
    with tempfile.TemporaryDirectory() as folder:
        data = data_of(model, rows, options.states or Path(folder) / "states", options)
        results = measure(model, data, options)
    settings = {k: v for k, v in vars(options).items() if k != "states"}
    used = [data_entry(train_file, "train and validation rows")]
    write_result("widths-toxicchat", results, seed=options.seeds[0], settings=settings, data=used)


if __name__ == "__main__":
    main()
