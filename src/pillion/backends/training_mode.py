"""Whether a pass draws by chance, as dropout does in a model that is in training mode.

Knows modules by what their settings are called.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from pillion.errors import StateError


def drawing_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules by name that would draw by chance in training mode."""
    return {name: module for name, module in model.named_modules() if _may_draw(module)}


def check_mode(modules: Mapping[str, nn.Module]) -> None:
    """Returns if a pass that begins now gives the same states each time.

    Args:
        modules: of `drawing_modules`; a new adapter's are in training mode in any model.

    Raises:
        StateError: it does not.
    """
    name = next((name for name, module in modules.items() if module.training), None)
    if name is not None:
        raise StateError(
            f"The model is in training mode and drops by chance (dropout in {name}), so that its "
            "states are others in every pass; call its `eval()` before it runs with probes."
        )


def _may_draw(module: nn.Module) -> bool:
    is_dropout = "dropout" in type(module).__module__  # of torch, whose share is called p
    return any(
        isinstance(value, float) and value > 0
        for name, value in vars(module).items()
        if "drop" in name or "jitter" in name or (is_dropout and name == "p")
    )
