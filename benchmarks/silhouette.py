"""How fast and exact silhouette coefficients are, against scikit-learn, in turns in one process.

    python -m benchmarks.silhouette [--states FILE] [--sklearn-layers 0 10 20 30]

Every layer is measured by pillion; scikit-learn, in turns with it, on some layers (all of them for
`--agree`, which compares values and takes no time). FILE holds pooled states of a real model,
`torch.save`d as [layer, row, dim] and label ids; without it states are drawn at random.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_info

from benchmarks.result_file import write_result
from pillion.metrics import mean_silhouette

ROWS, DIM, LAYERS, CLASSES = 5000, 576, 31, 6
METRICS = {"euclidean": "euclidean", "cosine": "cosine", "squared": "sqeuclidean"}
MARKS = {"euclidean": 3, "cosine": 100, "squared": 100}


def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    """States whose layers differ in size and offset, as those of a model do."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, CLASSES, (ROWS,), generator=generator)
    centres = torch.randn(LAYERS, CLASSES, DIM, generator=generator) * 0.3
    spread = torch.linspace(0.1, 3, DIM) * torch.logspace(-1, 2, LAYERS)[:, None, None]
    states = torch.randn(LAYERS, ROWS, DIM, generator=generator) + centres[:, ids]
    return states * spread + torch.randn(LAYERS, 1, DIM, generator=generator) * spread, ids


def timed(function: Any, *arguments: Any, **keywords: Any) -> tuple[float, float]:
    begin = time.perf_counter()
    value = function(*arguments, **keywords)
    return value, time.perf_counter() - begin


def in_turns(
    states: torch.Tensor, ids: torch.Tensor, distance: str, chosen: list[int], turns: int
) -> dict[str, Any]:
    """Seconds a layer of both, neighbours in time, and the largest difference of their values."""
    ours: list[float] = []
    theirs: list[float] = []
    worst = 0.0
    for layer in chosen:
        array, labels = states[layer].numpy(), ids.numpy()
        for _ in range(turns):
            got, seconds = timed(mean_silhouette, states[layer], ids, distance)
            ours.append(seconds)
        wanted, seconds = timed(silhouette_score, array, labels, metric=METRICS[distance])
        theirs.append(seconds)
        exact = silhouette_score(states[layer].double().numpy(), labels, metric=METRICS[distance])
        worst = max(worst, abs(got - exact))
        print(f"{distance} layer {layer}: {got:.6f} {wanted:.6f} {exact:.6f}", flush=True)
    ours_each, theirs_each = statistics.median(ours), statistics.median(theirs)
    ratio = theirs_each / ours_each
    print(f"{distance}: {ours_each:.4f} s, scikit-learn {theirs_each:.3f} s, {ratio:.1f} x")
    where = {"distance": distance, "interval": None}
    return {
        "metric": "seconds_a_layer",
        "value": ours_each,
        "baseline": theirs_each,
        "ratio": ratio,
        "mark": MARKS[distance],
        "largest_difference_from_fp64": worst,
        **where,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", type=Path)
    parser.add_argument("--sklearn-layers", type=int, nargs="+", default=[0, 6, 12, 18, 24, 30])
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    if options.states is None:
        states, ids = drawn()
    else:
        kept = torch.load(options.states)
        states, ids = kept["states"], kept["ids"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mean_silhouette(states[0], ids)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    results = [
        in_turns(states, ids, distance, options.sklearn_layers, options.turns)
        for distance in METRICS
    ]
    results.append(
        {"metric": "added_peak_bytes", "value": grown * 1024, "distance": "euclidean"}
        | {"baseline": 4 * len(ids) ** 2, "ratio": grown * 1024 / (4 * len(ids) ** 2)}
        | {"interval": None}
    )
    settings = {
        "states": "drawn at random" if options.states is None else "pooled, of the embedded model",
        "rows": states.shape[1],
        "dim": states.shape[2],
        "layers": len(states),
        "classes": int(ids.unique().numel()),
        "sklearn_layers": options.sklearn_layers,
        "baseline": "sklearn.metrics.silhouette_score of one layer, fp32, same process, in turns",
        "torch_threads": torch.get_num_threads(),
        "blas": [
            {k: pool.get(k) for k in ("internal_api", "architecture", "num_threads", "version")}
            for pool in threadpool_info()
        ],
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    write_result("silhouette", results, seed=0, settings=settings)


if __name__ == "__main__":
    main()
