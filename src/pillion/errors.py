"""The tree of errors that pillion raises on purpose.

Every message is one sentence or two: what was got, what was wanted, what to do. The command line
turns an error into its `exit_code`; nothing here knows models, disk or network.

    PillionError
    ├── InputError        the caller's input cannot be used (exit code 2)
    │   ├── DataError         a data file, column, label or text
    │   │   ├── MissingColumn     a column that the table does not have
    │   │   └── BadRows           rows that cannot be used, beside others that can
    │   ├── ConfigError       an option or configuration value
    │   └── ArtefactError     a saved probe that cannot be read
    │       └── MismatchError     a probe that belongs to another model, template or shape
    └── RunError          the input was fine, the run failed (exit code 1)
        ├── StateError        hidden states that are not finite, or that were never seen
        ├── ConvergenceError  a fit that is not at its optimum, whose numbers would mislead
        ├── StorageError      a disk that is full, a cache that is broken
        └── Interrupted       stopped by the user; a resumable state is left
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PillionError(Exception):
    """Base of every error that pillion raises on purpose."""

    exit_code = 1


class InputError(PillionError):
    """The caller's input cannot be used."""

    exit_code = 2


class DataError(InputError):
    """A data file, column, label or text cannot be used."""


class MissingColumn(DataError):
    """A table does not have a column.

    Attributes:
        holds: what the column would hold, `text` or `label`, where the user did not name it.
    """

    holds: str | None = None


class BadRows(DataError):
    """Rows of a table cannot be used; others may."""


class ConfigError(InputError):
    """An option or configuration value cannot be used."""


class ArtefactError(InputError):
    """A saved probe cannot be read."""


class MismatchError(ArtefactError):
    """A probe belongs to another model, tokenizer, template or shape.

    Attributes:
        model: name of the model that it belongs to, where another one was given.
    """

    model: str | None = None


class RunError(PillionError):
    """The input was fine, but the run failed."""


class StateError(RunError):
    """Hidden states are not finite, or some that are needed were never seen."""


class ConvergenceError(RunError):
    """A fit is not at its optimum, so that its numbers would say less than the method can."""


class StorageError(RunError):
    """The disk is full, or what lies on it is broken."""


class Interrupted(RunError):
    """The user stopped the run; what it left can be resumed."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not in a table, naming the nearest known one.

    Args:
        kind: what the name stands for, such as `probe` or `option`.
        name: what was got.
        known: every name that would have been accepted.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"Unknown {kind} {name!r}; known: {', '.join(names) or 'none'}.{hint}")


def of_kind(name: str) -> type[PillionError]:
    """The class of this tree with that name, for an error that comes from another process."""
    kinds = [PillionError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return next(kind for kind in kinds if kind.__name__ == name)
