"""The command line: one file a verb; each parses, builds a configuration and makes one call."""

from pillion.cli import (
    bench,
    demo,
    doctor,
    evaluate,
    extract,
    generate,
    inspect,
    predict,
    setup,
    train,
)
from pillion.cli.app import main

__all__ = [
    "bench",
    "demo",
    "doctor",
    "evaluate",
    "extract",
    "generate",
    "inspect",
    "main",
    "predict",
    "setup",
    "train",
]
