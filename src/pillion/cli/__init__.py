"""The command line: one file a verb; each parses, builds a configuration and makes one call."""

from pillion.cli import (
    demo,
    doctor,
    evaluate,
    extract,
    generate,
    inspect,
    predict,
    serve,
    setup,
    train,
    vllm,
)
from pillion.cli.app import main

__all__ = [
    "demo",
    "doctor",
    "evaluate",
    "extract",
    "generate",
    "inspect",
    "main",
    "predict",
    "serve",
    "setup",
    "train",
    "vllm",
]
