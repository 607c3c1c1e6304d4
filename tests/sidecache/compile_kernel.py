"""Compiles the kernel of gates for accelerators that are not here."""

from __future__ import annotations

from typing import Any

import triton.backends.compiler as backends  # pyright: ignore
import triton.compiler as compiler  # pyright: ignore

from pillion.probe.softmax import FLOOR
from pillion.sidecache.gate_kernel import gates

SIGNATURE = {"units": "*i64", "numbers": "*i64", "places": "*i32", "out": "*fp32"}
SIZES = [(8, 1, 80), (16, 8, 90), (32, 128, 90)]
"""Heads, labels and architecture."""


def main() -> None:
    signature = SIGNATURE | dict.fromkeys(("HEADS", "LABELS", "FLOOR"), "constexpr")
    for heads, labels, arch in SIZES:
        chosen: Any = {(4,): heads, (5,): labels, (6,): FLOOR}
        source = compiler.ASTSource(fn=gates, signature=signature, constexprs=chosen)
        made = compiler.compile(source, target=backends.GPUTarget("cuda", arch, 32))
        assert made.asm["ptx"]
    print(f"compiled for {len(SIZES)} sizes")


if __name__ == "__main__":
    main()
