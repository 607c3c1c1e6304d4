"""What is set: which probes ride in vLLM, and the options of vLLM that let them.

One mapping of options serves `vllm.LLM(...)`, `AsyncEngineArgs(...)` and, as a YAML file, `vllm
serve --config`. Every name in it is an extension point of vLLM. Imports no vLLM.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pillion.core.strict import sentence
from pillion.errors import ConfigError
from pillion.probe import Artefact
from pillion.riding.latest_logits import KEY
from pillion.riding.probes import RidingProbes

PLUGIN = "pillion"
"""Name of all our entry points: what `VLLM_PLUGINS` must hold if it is set."""
PREFIX = "Pillion"
"""Before an architecture's name: the same model with probes."""
SCHEDULER = "pillion.vllm.scheduler.pillion_scheduler"


class VllmProbeSettings(RidingProbes):
    """Settings of the probes that ride, beside those of `RidingProbes`.

    What `reasoning` is, is found out at start.

    Attributes:
        http: whether answers over HTTP carry verdicts; needs the plugin in `VLLM_PLUGINS`.
        policy: file of policies that the server follows.
        digest: of what the probes read and compute; found out at start.
    """

    http: bool = False
    policy: str | None = None
    digest: str = ""

    @classmethod
    def of(cls, additional_config: object) -> VllmProbeSettings:
        """The settings in vLLM's `additional_config`.

        Raises:
            ConfigError: there are none, or they are not what is wanted.
        """
        found: Any = additional_config
        if not has_settings(found):
            raise ConfigError(
                f"vLLM's additional_config has no {KEY!r}; make the options with `pillion vllm` "
                "or pillion.vllm.options."
            )
        try:
            return cls.model_validate(found[KEY])
        except ValidationError as error:
            place = f"additional_config {KEY}"
            said = sentence(error, place, f"key of {KEY}:", cls.model_fields)
            raise ConfigError(said) from error


def has_settings(additional_config: object) -> bool:
    """Whether vLLM's `additional_config` asks for probes."""
    return isinstance(additional_config, Mapping) and KEY in additional_config


def digest(artefacts: Sequence[Artefact]) -> str:
    """Another one for probes of other layers, kinds, settings or weights."""
    cards = [(a.name, a.card) for a in artefacts]
    told = [(name, c.probe, c.layers, c.settings, c.weights_sha256) for name, c in cards]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def options(
    architectures: Sequence[str],
    probes: Sequence[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]],
    *,
    allow_mismatch: bool = False,
    http: bool = False,
    policy: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Keyword arguments of `vllm.LLM` or `AsyncEngineArgs` that make probes ride.

    Args:
        architectures: of the model, as its `config.json` has them.
        probes: folders of saved probes (each named after its folder), or name -> folder.
        allow_mismatch: only warn of probes trained on other weights, tokenizer or template.
        http: whether `vllm serve` is to put verdicts into its answers.
        policy: file of policies that it is to follow.

    Raises:
        ConfigError: no probe, or two of one name.
    """
    folders = probes if isinstance(probes, Mapping) else _named(probes)
    if not folders:
        raise ConfigError("Got no probe; give the folder of one or more.")
    settings = VllmProbeSettings(
        probes={name: str(Path(folder).absolute()) for name, folder in folders.items()},
        allow_mismatch=allow_mismatch,
        http=http,
        policy=None if policy is None else str(Path(policy).absolute()),
    )
    return {
        # The plain architecture stands behind ours: without our plugin vLLM takes it, comes to our
        # connector, and that says what is missing.
        "hf_overrides": {"architectures": [PREFIX + architectures[0], *architectures]},
        "kv_transfer_config": {
            "kv_connector": "PillionConnector",
            "kv_connector_module_path": "pillion.vllm.entry",
            "kv_role": "kv_both",
        },
        "scheduler_cls": SCHEDULER,
        "additional_config": {
            KEY: settings.model_dump(exclude={"reasoning", "digest"}, exclude_none=True)
        },
    }


def option_file(chosen: Mapping[str, Any]) -> str:
    """Options as the text of a YAML file for `vllm serve --config`."""
    # JSON is YAML, and needs no library.
    lines = [f"{name.replace('_', '-')}: {json.dumps(value)}" for name, value in chosen.items()]
    return "\n".join(lines) + "\n"


def _named(probes: Sequence[str | os.PathLike[str]]) -> dict[str, str | os.PathLike[str]]:
    named: dict[str, str | os.PathLike[str]] = {}
    for folder in probes:
        name = Path(folder).name
        if name in named:
            raise ConfigError(f"Two probes are called {name!r}; rename a folder.")
        named[name] = folder
    return named
