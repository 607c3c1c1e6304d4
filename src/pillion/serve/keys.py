"""API keys: where they come from, and whether a request has one.

Compared in constant time, and kept as hashes only. Knows no HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pillion.errors import ConfigError

Role = Literal["user", "admin"]
"""`admin` may also load, unload and swap probes."""

USER_VARIABLE, ADMIN_VARIABLE = "PILLION_API_KEYS", "PILLION_ADMIN_KEYS"


@dataclass(frozen=True)
class Keys:
    """Who may ask.

    Attributes:
        hashes: SHA-256 of every key, and its role.
    """

    hashes: tuple[tuple[bytes, Role], ...] = ()

    def __bool__(self) -> bool:
        """Whether there is any key."""
        return bool(self.hashes)

    def role(self, key: str) -> Role | None:
        """The role of a key; None for one that is not known. Takes the same time for all."""
        got, found = _hash(key), None
        for known, role in self.hashes:
            if hmac.compare_digest(got, known):
                found = role
        return found


def load_keys(path: Path | None, environment: Mapping[str, str]) -> Keys:
    """Keys of a file and of the environment.

    Args:
        path: one key a line, `admin` behind those that may change probes; lines that begin with
            `#` are comments.
        environment: `PILLION_API_KEYS` and `PILLION_ADMIN_KEYS`, separated by commas.

    Raises:
        ConfigError: a file that cannot be read, holds no key, or has a line of another form.
    """
    found = list(_of_environment(environment))
    if path is not None:
        found += _of_file(path)
    return Keys(tuple((_hash(key), role) for key, role in found))


def _of_environment(environment: Mapping[str, str]) -> Iterable[tuple[str, Role]]:
    roles: tuple[tuple[str, Role], ...] = ((USER_VARIABLE, "user"), (ADMIN_VARIABLE, "admin"))
    for name, role in roles:
        for key in environment.get(name, "").split(","):
            if key.strip():
                yield key.strip(), role


def _of_file(path: Path) -> Iterable[tuple[str, Role]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-key-file {path} cannot be read ({error}).") from error
    found: list[tuple[str, Role]] = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) > 2 or words[1:] not in ([], ["admin"]):
            raise ConfigError(
                f"--api-key-file {path}, line {number}: one key is wanted, or one key and the word "
                "admin."
            )
        found.append((words[0], "admin" if words[1:] else "user"))
    if not found:
        raise ConfigError(f"--api-key-file {path} holds no key; write one a line.")
    return found


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
