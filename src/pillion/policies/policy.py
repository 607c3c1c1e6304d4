"""The file of policies: what follows from a verdict, stated per probe and checked before serving.

Strict: an unknown key names the nearest known one. Does not decide anything itself.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from pillion.core import ANSWER_SCOPES, PROMPT_SCOPES
from pillion.core.strict import sentence
from pillion.core.yaml_text import load_yaml
from pillion.errors import ConfigError, unknown_name
from pillion.policies.actions import ACTIONS, Policy, Route, TextPart, Typed
from pillion.probe import Artefact


class Upstream(Typed):
    """An OpenAI-compatible server.

    Attributes:
        url: up to and with `/v1`.
        model: as it calls the model.
        api_key_env: environment variable that holds its key.
        seconds: longest wait for its answer to begin.
    """

    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+")]
    model: str
    api_key_env: str | None = None
    seconds: Annotated[float, Field(gt=0)] = 30.0


class JudgeServer(Upstream):
    """An upstream that is asked whether a label applies.

    Attributes:
        question: what it is asked; `{label}` stands for the label. It has to answer yes or no.
        max_tokens: of its answer.
    """

    question: str = (
        "You judge texts. Does the label '{label}' apply to the text that follows? "
        "Answer with one word, yes or no."
    )
    max_tokens: Annotated[int, Field(ge=1)] = 8


class Policies(Typed):
    """A whole file.

    Attributes:
        policies: in order: of those that act on the same text, the first decides.
        upstreams: servers that `route` names.
        judges: servers that `escalate` names.
    """

    policies: tuple[Policy, ...] = ()
    upstreams: dict[str, Upstream] = Field(default_factory=dict[str, Upstream])
    judges: dict[str, JudgeServer] = Field(default_factory=dict[str, JudgeServer])

    def of(self, part: TextPart) -> tuple[Policy, ...]:
        """Those that look at a prompt, or at a response."""
        return tuple(policy for policy in self.policies if policy.on == part)

    def check(self, probes: Mapping[str, Artefact]) -> None:
        """Returns if every policy can be followed with these probes.

        Raises:
            ConfigError: a policy names a probe, label or band that does not exist.
        """
        for number, policy in enumerate(self.policies, start=1):
            where = f"Policy {number} ({policy.action})"
            if policy.probe not in probes:
                raise _at(where, unknown_name("probe", policy.probe, probes))
            card = probes[policy.probe].card
            scopes = PROMPT_SCOPES if policy.on == "prompt" else ANSWER_SCOPES
            if card.scope not in scopes:
                raise ConfigError(
                    f"{where} is on {policy.on}s, and probe {policy.probe!r} reads the scope "
                    f"{card.scope!r}, which has no verdicts there; name a probe of one of: "
                    f"{', '.join(scopes)}."
                )
            if policy.label is None and card.task != "binary":
                raise ConfigError(
                    f"{where}: probe {policy.probe!r} is {card.task}; say which label it waits "
                    f"for ({', '.join(card.labels)})."
                )
            if policy.label is not None and policy.label not in card.labels:
                raise _at(where, unknown_name("label", policy.label, card.labels))
            if fault := policy.card_fault(card):
                raise ConfigError(f"{where}: the card of probe {policy.probe!r} {fault}.")


def read_policies(path: Path) -> Policies:
    """The policies of a YAML (`.yaml`, `.yml`), TOML (`.toml`) or JSON (`.json`) file.

    Raises:
        ConfigError: in a sentence, what cannot be used and where.
    """
    content = _parse(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no mapping; begin it with policies:.")
    try:
        return make_policies(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def make_policies(content: Mapping[str, Any]) -> Policies:
    """Policies of a file's content.

    Raises:
        ConfigError: in a sentence, what cannot be used and where.
    """
    _known("key", content, Policies.model_fields)
    listed = content.get("policies") or []
    if not isinstance(listed, list):
        raise ConfigError("policies is no list; give one, each entry with probe and action.")
    facts: dict[str, Any] = {
        "policies": tuple(_policy(one, f"policies[{i}]") for i, one in enumerate(listed)),
        "upstreams": _named(content, "upstreams", Upstream),
        "judges": _named(content, "judges", JudgeServer),
    }
    found = Policies(**facts)
    for i, policy in enumerate(found.policies):
        known = found.judges if policy.asks else found.upstreams
        if policy.server is not None and policy.server not in known:
            error = unknown_name(str(policy.server_kind), policy.server, known)
            raise _at(f"policies[{i}]", error)
    _check_routes(found)
    return found


def _check_routes(found: Policies) -> None:
    """Raises a ConfigError where an upstream's answer would go out unread that must be read."""
    if not any(isinstance(policy, Route) for policy in found.policies):
        return
    for i, policy in enumerate(found.policies):
        if policy.on == "response" and policy.closed:
            raise ConfigError(
                f"policies[{i}] ({policy.action}) fails closed, but no probe can read the answers "
                "of the upstreams that a route policy lets answer; let it fail open, or take the "
                "route out."
            )


def api_key(server: Upstream) -> str | None:
    """The key of an upstream or judge.

    Raises:
        ConfigError: its environment variable is not set, or to what no header can hold.
    """
    if server.api_key_env is None:
        return None
    key = os.environ.get(server.api_key_env, "")
    if not key:
        raise ConfigError(
            f"{server.url} wants the key in the environment variable {server.api_key_env}, which "
            "is not set; set it, or leave api_key_env out."
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(
            f"The key in the environment variable {server.api_key_env} holds a space, the end of a "
            "line or a letter beyond ASCII, which no request can carry; set it to the key alone."
        )
    return key


def _parse(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Policies in {path} cannot be read ({error}).") from error
    kinds: dict[str, tuple[str, Callable[[str], Any]]] = {
        ".yaml": ("YAML", load_yaml),
        ".yml": ("YAML", load_yaml),
        ".toml": ("TOML", tomllib.loads),
        ".json": ("JSON", partial(json.loads, object_pairs_hook=_once)),
    }
    kind, parse = kinds.get(path.suffix, ("", None))
    if parse is None:
        raise ConfigError(
            f"The file of policies {path} ends in {path.suffix!r}; .yaml, .yml or .toml is read."
        )
    try:
        return parse(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no {kind}: {error}.") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, each of whose keys stands once, as YAML and TOML have it."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands there twice")
    return found


def _policy(content: Any, where: str) -> Policy:
    if not isinstance(content, dict):
        raise ConfigError(f"{where} is no mapping; give probe and action.")
    action = content.get("action")
    if not isinstance(action, str):
        raise ConfigError(f"{where}: say its action ({', '.join(ACTIONS)}).")
    if action not in ACTIONS:
        raise _at(where, unknown_name("action", action, ACTIONS))
    return _make(ACTIONS[action], content, where)


def _named(content: Mapping[str, Any], key: str, kind: type[Typed]) -> dict[str, Any]:
    found = content.get(key) or {}
    if not isinstance(found, dict):
        raise ConfigError(f"{key} is no mapping from names to servers.")
    return {str(name): _make(kind, facts, f"{key}.{name}") for name, facts in found.items()}


def _make(kind: type[Any], content: Any, where: str) -> Any:
    if not isinstance(content, dict):
        raise ConfigError(f"{where} is no mapping.")
    facts = {key: tuple(v) if isinstance(v, list) else v for key, v in content.items()}
    try:
        return kind.model_validate(facts)
    except ValidationError as error:
        said = sentence(error, where, f"key in {where}", kind.model_fields)
        hint = " Say whether it fails open or closed." if said.startswith(f"{where}.fail:") else ""
        raise ConfigError(said + hint) from error


def _known(kind: str, content: Mapping[Any, Any], known: Iterable[str]) -> None:
    names = list(known)
    for key in content:
        if key not in names:
            raise unknown_name(kind, str(key), names)


def _at(where: str, error: ConfigError) -> ConfigError:
    return ConfigError(f"{where}: {error}")
