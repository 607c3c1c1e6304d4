"""What an operator chooses: limits, names, keys, policies; frozen, made once at the edge."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

from pillion.core import defaults
from pillion.errors import ConfigError
from pillion.policies import Policies
from pillion.serve.keys import Keys

Share = Literal["off", "key", "all"]
SHARES: tuple[Share, ...] = get_args(Share)


@dataclass(frozen=True)
class Limits:
    """What one request may take; all are positive.

    Attributes:
        body_bytes: of a request.
        prompt_chars: characters of all texts of a request together.
        output_tokens: of an answer, and its length where a request names none.
        choices: answers of one request: prompts x n.
        texts: of one call of classify or moderations.
        queue: requests that wait to begin; more are told to come back (429).
        seconds: from a request to the end of its answer.
        send_seconds: that a client may take to accept one piece of a stream.
        body_seconds: that a client may take to send a body.
    """

    body_bytes: int = defaults.BODY_BYTES
    prompt_chars: int = defaults.PROMPT_CHARS
    output_tokens: int = defaults.OUTPUT_TOKENS
    choices: int = defaults.CHOICES
    texts: int = 1024
    queue: int = defaults.QUEUE
    seconds: float = defaults.SECONDS
    send_seconds: float = 30.0
    body_seconds: float = 30.0

    def __post_init__(self) -> None:
        for one in fields(self):
            if not getattr(self, one.name) > 0:
                raise ConfigError(
                    f"Limit {one.name} is {getattr(self, one.name)}; it must be above 0."
                )


@dataclass(frozen=True)
class Settings:
    """Everything about a server but its engine.

    Attributes:
        names: the model's, for clients; none: the engine's own.
        limits: of requests.
        keys: that may ask; without any only this machine may.
        policies: what follows from verdicts.
        dry_run: policies are logged, not followed.
        log_prompts: prompts and answers go to the log.
        share_prefixes: whose cached prefixes a prompt may begin with: none (`off`), those of
            the same key, or those of all.
        check: canaries are run when the server starts and when a probe is loaded.
        exits: texts that are only classified may leave early, as the probes' cards say.
        probe_folders: probes may be loaded from inside these, and from nowhere else.
    """

    names: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    keys: Keys = field(default_factory=Keys)
    policies: Policies = field(default_factory=Policies)
    dry_run: bool = False
    log_prompts: bool = False
    share_prefixes: Share = defaults.SHARE_PREFIXES
    check: bool = True
    exits: bool = True
    probe_folders: tuple[Path, ...] = ()
