"""API keys: where they come from, whose they are, and how much each may ask for.

Compared in constant time, and kept as hashes only. Knows no HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from pillion.errors import ConfigError, unknown_name

Role = Literal["user", "admin"]
"""`admin` may also load, unload and swap probes."""

USER_VARIABLE, ADMIN_VARIABLE = "PILLION_API_KEYS", "PILLION_ADMIN_KEYS"
_COUNT = re.compile(r"0{0,9}[1-9][0-9]{0,14}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Quota:
    """How much a caller may ask for; None: as much as the server gives.

    Attributes:
        requests: a minute.
        tokens: a minute, of prompts and answers together.
        in_flight: requests at once.
    """

    requests: int | None = None
    tokens: int | None = None
    in_flight: int | None = None


@dataclass(frozen=True)
class Caller:
    """The owner of a key.

    Attributes:
        name: of the key, for logs; keys of one name share their quota and their prefixes.
        role: what it may do.
        quota: how much.
        choose: whether its requests may choose what they are told of verdicts.
    """

    name: str
    role: Role = "user"
    quota: Quota = field(default_factory=Quota)
    choose: bool = False

    @property
    def chooses(self) -> bool:
        """Whether its requests may name probes and thresholds; an admin's always may."""
        return self.choose or self.role == "admin"


LOCAL = Caller("local", "admin")
"""The caller of a server without keys: this machine."""


@dataclass(frozen=True)
class Keys:
    """The keys that may ask, and their owners.

    Attributes:
        hashes: SHA-256 of every key, and whose it is.
    """

    hashes: tuple[tuple[bytes, Caller], ...] = ()

    def __bool__(self) -> bool:
        """Whether there is any key."""
        return bool(self.hashes)

    def caller(self, key: str) -> Caller | None:
        """Whose key it is; None for one that is not known. Takes the same time for all."""
        got, found = _hash(key), None
        for known, caller in self.hashes:
            if hmac.compare_digest(got, known):
                found = caller
        return found


def load_keys(path: Path | None, environment: Mapping[str, str]) -> Keys:
    """Keys of a file and of the environment.

    Args:
        path: one key a line; behind it `admin` for those that may change probes, `choose` for those
            whose requests may choose probes and thresholds, `name=NAME` for logs, and
            `requests=N`, `tokens=N` (a minute) and `in_flight=N` for quotas. Lines that begin with
            `#` are comments.
        environment: `PILLION_API_KEYS` and `PILLION_ADMIN_KEYS`, separated by commas.

    Raises:
        ConfigError: a file that cannot be read, holds no key, has a line of another form, a key
            that no request can carry, or one name with two quotas.
    """
    found = list(_of_environment(environment))
    if path is not None:
        found += _of_file(path)
    quotas: dict[str, Quota] = {}
    for _, caller in found:
        if quotas.setdefault(caller.name, caller.quota) != caller.quota:
            raise ConfigError(
                f"Keys of the name {caller.name!r} have different quotas; give them one, or two "
                "names."
            )
    return Keys(tuple((_hash(key), caller) for key, caller in found))


def _of_environment(environment: Mapping[str, str]) -> Iterable[tuple[str, Caller]]:
    roles: tuple[tuple[str, Role], ...] = ((USER_VARIABLE, "user"), (ADMIN_VARIABLE, "admin"))
    for name, role in roles:
        for key in environment.get(name, "").split(","):
            if key.strip():
                _check_key(key.strip(), name)
                yield key.strip(), Caller(_name(key.strip()), role)


def _of_file(path: Path) -> Iterable[tuple[str, Caller]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-key-file {path} cannot be read ({error}).") from error
    found: list[tuple[str, Caller]] = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if words and not words[0].startswith("#"):
            found.append((words[0], _caller(words, f"--api-key-file {path}, line {number}")))
    if not found:
        raise ConfigError(f"--api-key-file {path} holds no key; write one a line.")
    return found


def _caller(words: Sequence[str], where: str) -> Caller:
    """The caller of a line's words: its key first."""
    key, *others = words
    _check_key(key, where)
    said = Counter(word.partition("=")[0] for word in others)
    if twice := [what for what, times in said.items() if times > 1]:
        raise ConfigError(f"{where}: {twice[0][:40]!r} stands there twice; give it once.")
    role: Role = "user"
    name, limits, choose = _name(key), dict[str, int](), False
    known = ["admin", "choose", "name", *(one.name for one in fields(Quota))]
    for word in others:
        what, mark, value = word.partition("=")
        if word == "admin":
            role = "admin"
        elif word == "choose":
            choose = True
        elif not mark or what not in known or what in ("admin", "choose"):
            raise ConfigError(
                f"{where}: one key is wanted, and behind it such words as admin or requests=60. "
                f"{unknown_name('word', what[:40], known)}"
            )
        elif what == "name":
            if not _NAME.fullmatch(value):
                raise ConfigError(f"{where}: name={value[:80]} is no name; letters and digits are.")
            name = value
        elif not _COUNT.fullmatch(value):
            raise ConfigError(
                f"{where}: {word[:80]} is no number above 0 of at most 15 digits; give one."
            )
        else:
            limits[what] = int(value)
    return Caller(name, role, Quota(**limits), choose)


def _check_key(key: str, where: str) -> None:
    """Returns if a request can carry a key.

    Raises:
        ConfigError: the place of one that none can.
    """
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"{where}: a key holds a character beyond those of ASCII, which no request can carry; "
            "give another key."
        )


def _name(key: str) -> str:
    """Of a key without a name: enough of its hash to tell it from others."""
    return f"key-{_hash(key).hex()[:8]}"


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
