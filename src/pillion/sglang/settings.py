"""What is set: which probes ride in SGLang. Imports no SGLang.

All processes of SGLang inherit the settings in one variable of the environment: SGLang hands
plugins and models nothing else.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pillion.errors import ConfigError
from pillion.probe import Artefact
from pillion.riding.faults import fault_of

VARIABLE = "PILLION_SGLANG"
"""Of the environment, with the settings as JSON."""
MODELS_VARIABLE = "SGLANG_EXTERNAL_MODEL_PACKAGE"
"""Of the environment, from which SGLang takes model classes before its own."""
MODELS_PACKAGE = "pillion.sglang.models"


class ProbeSettings(BaseModel):
    """Settings of the probes that ride; strict and frozen.

    Attributes:
        probes: name -> folder of a saved probe.
        architecture: of the model, a class of SGLang.
        allow_mismatch: only warn of probes trained on other weights, tokenizer or template.
        reasoning: tokens around the reasoning in an answer, which scopes leave out; None where no
            probe has to know.
        secret: what our own server says with a prompt's turns, so that no client can.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    probes: dict[str, str] = Field(min_length=1)
    architecture: str
    allow_mismatch: bool = False
    reasoning: tuple[int, int] | None = None
    secret: str = Field(default_factory=lambda: secrets.token_hex(16))

    @classmethod
    def of(
        cls,
        folders: Sequence[str | os.PathLike[str]],
        architecture: str,
        allow_mismatch: bool = False,
        reasoning: tuple[int, int] | None = None,
    ) -> ProbeSettings:
        """Settings for probes that are named after their folders.

        Raises:
            ConfigError: no probe, or two of one name.
        """
        named = [(Path(folder).name, str(Path(folder).absolute())) for folder in folders]
        probes = dict(named)
        if not named:
            raise ConfigError("Got no probe; give the folder of one or more.")
        if len(probes) < len(named):
            names = ", ".join(name for name, _ in named)
            raise ConfigError(f"Probe names must differ; got {names}. Rename a folder.")
        return cls(
            probes=probes,
            architecture=architecture,
            allow_mismatch=allow_mismatch,
            reasoning=reasoning,
        )

    def load(self) -> list[Artefact]:
        """The probes.

        Raises:
            ArtefactError: one cannot be read.
        """
        return [Artefact.load(folder, name) for name, folder in self.probes.items()]

    def variables(self) -> dict[str, str]:
        """What the environment of all processes must hold."""
        return {VARIABLE: self.model_dump_json(), MODELS_VARIABLE: MODELS_PACKAGE}


def settings_of(environ: Mapping[str, str]) -> ProbeSettings | None:
    """The settings in an environment; None where no probe rides.

    Raises:
        ConfigError: they are not what is wanted.
    """
    if not (told := environ.get(VARIABLE)):
        return None
    try:
        return ProbeSettings.model_validate_json(told)
    except ValidationError as error:
        known = ProbeSettings.model_fields
        raise fault_of(error, VARIABLE, f"key of {VARIABLE}:", known) from error
