"""Peak memory of three gates at a long prompt, against the bare model and `output_hidden_states`.

    python -m benchmarks.memory [--tokens 4096]

Counts the bytes that torch allocates during one prompt, with its own allocation profiler on the
CPU and its peak counter on CUDA: unlike the process's size, that does not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.engines import engine, model_parser
from benchmarks.result_file import write_result
from benchmarks.ride import RIDERS, probe, riding


def peak_bytes(run: Callable[[], object]) -> int:
    """The largest sum of live allocations that `run` makes, in bytes."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
    ) as seen:
        kept = run()
    live = peak = 0
    for event in sorted(
        (e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"),
        key=lambda e: e.start_ns(),
    ):
        live += event.nbytes()
        peak = max(peak, live)
    del kept
    return peak


def main() -> None:
    parser = model_parser(__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    options = parser.parse_args()
    backend = engine(options.model, options.device)
    ids = torch.randint(5, 10_000, (1, options.tokens), generator=torch.Generator().manual_seed(0))
    ids = ids.to(backend.device)
    probes = [probe(backend, f"p{i}", *kind) for i, kind in enumerate(RIDERS["three gates"])]

    @torch.inference_mode()
    def bare(**keywords: bool) -> object:
        return backend.model(input_ids=ids, use_cache=True, logits_to_keep=1, **keywords)

    def ridden() -> object:
        # The taps are made inside: their memory counts.
        with torch.inference_mode(), riding(backend, probes) as reading:
            return bare(), reading.verdicts()

    bare()
    base, wide = peak_bytes(bare), peak_bytes(lambda: bare(output_hidden_states=True))
    gates = peak_bytes(ridden)
    result = {
        "metric": "added_peak_bytes_of_three_gates",
        "value": gates - base,
        "bare": base,
        "baseline": wide - base,
        "ratio": (gates - base) / (wide - base),
        "interval": None,
    }
    print(result)
    write_result(f"memory-{options.model}", [result], seed=0, settings=vars(options))


if __name__ == "__main__":
    main()
