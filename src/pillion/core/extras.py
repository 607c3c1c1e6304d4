"""Packages that only some of pillion needs, and the extras of its own that bring them.

The names are those of `[project.optional-dependencies]` in pyproject.toml; a test compares.
"""

from __future__ import annotations

import importlib.util
from importlib import metadata

from pillion.errors import ConfigError

EXTRAS = {
    "serve": ("fastapi", "uvicorn", "sse_starlette", "prometheus_client", "httpx"),
    "report": ("matplotlib",),
    "calibrate": ("mapie",),
    "gguf": ("gguf", "accelerate"),
    "grammar": ("llguidance",),
    "data": ("datasets",),
    "bench": ("pillion_bench",),
    "ray": ("ray",),
    "vllm": ("vllm",),
}
"""Modules by the extra that brings them."""


def how_to_install(module: str | None) -> str | None:
    """The command that brings a module; None if it comes with no extra.

    Args:
        module: as an import names it, such as `fastapi.responses`.
    """
    package = (module or "").partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if package in modules), None)
    return extra and f"python -m pip install 'pillion[{extra}]'"


def installed_version(package: str) -> str:
    """The version of a package that is installed; empty if it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def require(module: str, what: str) -> None:
    """Asks for a package before the work begins that ends with it.

    Args:
        module: of the package, at the top.
        what: needs it; begins the sentence.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise ConfigError(
            f"{what} needs {module}, which is not installed; run {how_to_install(module)}."
        )
