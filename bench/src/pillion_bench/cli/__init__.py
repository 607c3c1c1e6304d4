"""The verbs of `pillion bench`; imported, they stand under it."""

from pillion_bench.cli import accuracy, real

__all__ = ["accuracy", "real"]
