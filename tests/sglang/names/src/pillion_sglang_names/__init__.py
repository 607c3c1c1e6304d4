"""Names that SGLang imports and never calls for a text on a CPU: kernels, pictures, notebooks.

A module of these names holds any name. What it holds may be named, subclassed and used as a
decorator; calling it for a number raises, so nothing is ever computed by a stand-in.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from typing import Any

ABSENT = ("triton", "sgl_kernel", "torchvision", "IPython")
"""Packages that are not installed."""


SETTINGS = ("Config", "constexpr")
"""What is made of kernels' settings where they are defined."""
DECORATORS = ("autotune", "heuristics", "jit")
"""Around kernels, with settings."""


class _Names(type):
    """Of classes that have any attribute, as enumerations do."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class Absent(types.ModuleType):
    """A module, or what would be in one."""

    __path__: Sequence[str] = ()
    __version__ = "0.0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name[0].isupper():  # a class, which others may subclass or name in annotations
            init = _keep if name in SETTINGS else _raise
            made: Any = _Names(name, (), {"__init__": init, "__module__": self.__name__})
        else:
            made = Absent(f"{self.__name__}.{name}")
        setattr(self, name, made)
        return made

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Passes on what it decorates."""
        if len(args) == 1 and not kwargs and isinstance(args[0], types.FunctionType):
            return _kernel(args[0])
        name = self.__name__.rpartition(".")[2]
        if name in SETTINGS:
            return self
        if name not in DECORATORS:
            _raise(self)
        return _kernel


class _Kernel:
    """A function that was decorated: may be named, not run."""

    def __init__(self, function: Any) -> None:
        self.fn, self.__name__, self.__doc__ = function, function.__name__, function.__doc__

    def __getitem__(self, grid: Any) -> Any:
        return _raise

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        _raise(self)


def _kernel(function: Any) -> Any:
    return function if isinstance(function, _Kernel) else _Kernel(function)


def _raise(self: Any = None, *args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError(f"{self!r} is not installed here: tests/sglang/names holds its name")


def _keep(self: Any, *args: Any, **kwargs: Any) -> None:
    """Nothing is done with settings of kernels that are never run."""


class _Finder:
    """Finds modules of those names, and all below them."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        first, _, rest = name.partition(".")
        # torch and transformers do without where a package is missing; but where it is there, torch
        # takes more of it.
        if first not in ABSENT or not (rest or _is_asked_by("sglang")):
            return None
        return ModuleSpec(name, _Finder, is_package=True)  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> Any:
        return Absent(spec.name)

    @staticmethod
    def exec_module(module: Any) -> None:
        """Nothing is in it."""


def _is_asked_by(package: str) -> bool:
    """Whether the code that imports is of that package."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name != __name__ and not name.startswith("importlib"):
            return name.partition(".")[0] == package
        frame = frame.f_back
    return False


def install() -> None:
    """From here on the names are there; packages that are installed come first."""
    if _Finder not in sys.meta_path:
        sys.meta_path.append(_Finder)  # type: ignore[arg-type]
