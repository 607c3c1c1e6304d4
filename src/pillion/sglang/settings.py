"""What is set: which probes ride in SGLang. Imports no SGLang.

All processes of SGLang inherit the settings in one variable of the environment: SGLang hands
plugins and models nothing else.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from pillion.core.strict import sentence
from pillion.errors import ConfigError
from pillion.probe.group import check_names
from pillion.riding.probes import RidingProbes

VARIABLE = "PILLION_SGLANG"
"""Of the environment, with the settings as JSON."""
MODELS_VARIABLE = "SGLANG_EXTERNAL_MODEL_PACKAGE"
"""Of the environment, from which SGLang takes model classes before its own."""
MODELS_PACKAGE = "pillion.sglang.models"


class SglangProbeSettings(RidingProbes):
    """Settings of the probes that ride, beside those of `RidingProbes`.

    Attributes:
        architecture: of the model, a class of SGLang.
        secret: what our own server says with a prompt's turns, so that no client can.
    """

    architecture: str
    secret: str = Field(default_factory=lambda: secrets.token_hex(16))

    @classmethod
    def of(
        cls,
        folders: Sequence[str | os.PathLike[str]],
        architecture: str,
        allow_mismatch: bool = False,
        reasoning: tuple[int, int] | None = None,
    ) -> SglangProbeSettings:
        """Settings for probes that are named after their folders.

        Raises:
            ConfigError: no probe, or two of one name.
        """
        if not folders:
            raise ConfigError("Got no probe; give the folder of one or more.")
        check_names([Path(folder).name for folder in folders])
        return cls(
            probes={Path(folder).name: str(Path(folder).absolute()) for folder in folders},
            architecture=architecture,
            allow_mismatch=allow_mismatch,
            reasoning=reasoning,
        )

    def variables(self) -> dict[str, str]:
        """What the environment of all processes must hold."""
        return {VARIABLE: self.model_dump_json(), MODELS_VARIABLE: MODELS_PACKAGE}


def settings_of(environ: Mapping[str, str]) -> SglangProbeSettings | None:
    """The settings in an environment; None where no probe rides.

    Raises:
        ConfigError: they are not what is wanted.
    """
    if not (told := environ.get(VARIABLE)):
        return None
    try:
        return SglangProbeSettings.model_validate_json(told)
    except ValidationError as error:
        known = SglangProbeSettings.model_fields
        said = sentence(error, VARIABLE, f"key of {VARIABLE}:", known)
        raise ConfigError(said) from error
