"""The command line: one file a verb; each parses, builds a configuration and makes one call."""

from pillion.cli import (
    demo,
    doctor,
    evaluate,
    explain,
    extract,
    generate,
    inspect,
    layers,
    predict,
    serve,
    setup,
    train,
)
from pillion.cli.app import main

__all__ = [
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
    "serve",
    "setup",
    "train",
]
