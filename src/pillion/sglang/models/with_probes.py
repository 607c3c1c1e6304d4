# pyright: reportMissingImports=false, reportUntypedBaseClass=false
"""SGLang's model class with probes inside: one generic subclass, under the plain one's name.

SGLang takes every class of `EntryClass` in place of its own of that name.
"""

from __future__ import annotations

import os
from typing import Any

from sglang.srt.models.registry import import_model_classes

from pillion.errors import ConfigError
from pillion.sglang.settings import VARIABLE, settings_of
from pillion.sglang.taps import SglangTaps
from pillion.sglang.versions import check_model


def with_probes(base: Any, layers: tuple[int, ...]) -> Any:
    """The subclass of a model class of SGLang that shows its residual stream.

    Args:
        base: a class whose body has `layers_to_capture`, a `norm` at its end, and hands both to
            its `logits_processor`.
        layers: that are read, ascending.
    """

    class ProbedModel(base):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.pillion = taps = SglangTaps(layers, self.config.num_hidden_layers)
            if taps.below:
                self.capture_aux_hidden_states = True
                self.model.layers_to_capture = list(taps.below)
            if taps.reads_last:
                self.model.norm.register_forward_hook(taps.keep_last)
            self.logits_processor.register_forward_pre_hook(taps.pass_by, with_kwargs=True)

    ProbedModel.__name__ = ProbedModel.__qualname__ = base.__name__
    ProbedModel.__module__ = __name__
    return ProbedModel


def _entries() -> list[Any]:
    settings = settings_of(os.environ)
    if settings is None:
        raise ConfigError(f"{VARIABLE} is not in the environment; start with `pillion sglang`.")
    check_model(settings.architecture)
    base = import_model_classes("sglang.srt.models")[settings.architecture]
    layers = {layer for probe in settings.load() for layer in probe.card.layers}
    return [with_probes(base, tuple(sorted(layers)))]


EntryClass = _entries()
