"""The options of a client of an engine's own server: `pillion` in a request's body."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ConfigDict, ValidationError

from pillion.core.strict import Strict, sentence
from pillion.errors import ConfigError, unknown_name
from pillion.riding.latest_logits import KEY


class ClientOptions(Strict):
    """Options of one request; strict and frozen.

    Attributes:
        probes: names of the probes whose verdicts are sent; None for all, empty for none.
        logits: whether the probes' logits are sent as well.
    """

    model_config = ConfigDict(strict=True)

    probes: tuple[str, ...] | None = None
    logits: bool = False

    @classmethod
    def of(cls, body: object, known: Collection[str]) -> ClientOptions:
        """The options in a request's body.

        Args:
            body: as it was sent; a body that is no mapping has no options.
            known: names of the probes that ride.

        Raises:
            ConfigError: an option is unknown or has a wrong value.
        """
        if not isinstance(body, Mapping) or KEY not in body:
            return cls()
        told: Any = body[KEY]
        if isinstance(told, dict) and isinstance(told.get("probes"), list):
            told = {**told, "probes": tuple(told["probes"])}
        try:
            options = cls.model_validate(told)
        except ValidationError as error:
            said = sentence(error, KEY, f"key of {KEY!r}:", cls.model_fields)
            raise ConfigError(said) from error
        for name in options.probes or ():
            if name not in known:
                raise unknown_name("probe", name, known)
        return options
