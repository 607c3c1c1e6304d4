"""The command line: one file a verb; each parses, builds a configuration and makes one call."""

from pillion.cli import (
    bench,
    bench_real,
    calibrate,
    demo,
    doctor,
    evaluate,
    explain,
    extract,
    generate,
    inspect,
    layers,
    predict,
    report,
    serve,
    setup,
    train,
    vllm,
)
from pillion.cli.app import main

__all__ = [
    "bench",
    "bench_real",
    "calibrate",
    "demo",
    "doctor",
    "evaluate",
    "explain",
    "extract",
    "generate",
    "inspect",
    "layers",
    "main",
    "predict",
    "report",
    "serve",
    "setup",
    "train",
    "vllm",
]
