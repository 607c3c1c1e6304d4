"""The options of `pillion serve`, in groups, and what of a server each decides."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pillion.core import defaults
from pillion.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from pillion.probe import Artefact
    from pillion.serve import Keys, Limits, Policies


@dataclass(frozen=True, kw_only=True)
class RiderOptions:
    """Probes, and what follows from their verdicts."""

    probe: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR",
            help="Folder of a trained probe, under a name of your choice; repeat it for several.",
        ),
    ] = None
    policy: Annotated[
        Path | None,
        typer.Option(
            help="File of policies, YAML or TOML: what follows from verdicts (docs/serve.md)."
        ),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only log what the policies would do.")
    ] = False

    def policies(self) -> Policies:
        """Those of the file; none without it."""
        from pillion.serve import Policies, read_policies

        return Policies() if self.policy is None else read_policies(self.policy)

    def artefacts(self) -> list[Artefact]:
        """The probes of `--probe`, loaded from their folders; none where it is not given."""
        return [_probe(one) for one in self.probe or []]


@dataclass(frozen=True, kw_only=True)
class AccessOptions:
    """Where the server listens, to whom, and what runs the model."""

    host: Annotated[str, typer.Option(help="Address to listen at.")] = defaults.HOST
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = defaults.PORT
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="Engine that runs the model: transformers or vllm.")
    ] = defaults.ENGINE
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Name of the model for clients; default: as --model. May be repeated.",
        ),
    ] = None
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="One API key a line; behind it admin (may change probes), name=, and quotas: "
            "requests= and tokens= a minute, in_flight=. Also: PILLION_API_KEYS, "
            "PILLION_ADMIN_KEYS. Without keys only this machine may ask."
        ),
    ] = None
    probe_folder: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="POST /v1/probes may load probes from inside this folder; may be repeated.",
        ),
    ] = None

    def keys(self) -> Keys:
        """Keys of the file and the environment; empty where there are none."""
        from pillion.serve import load_keys

        return load_keys(self.api_key_file, os.environ)

    def folders(self) -> tuple[Path, ...]:
        """From inside which probes may be loaded.

        Raises:
            ConfigError: one is no folder.
        """
        for folder in self.probe_folder or ():
            if not folder.is_dir():
                raise ConfigError(f"--probe-folder {folder} is no folder.")
        return tuple(folder.resolve() for folder in self.probe_folder or ())


@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """What one request may take, and how the server ends."""

    max_queue: Annotated[
        int, typer.Option(min=1, help="Requests that may wait to begin; more get 429.")
    ] = defaults.QUEUE
    max_output_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = (
        defaults.OUTPUT_TOKENS
    )
    max_prompt_chars: Annotated[
        int, typer.Option(min=1, help="Most characters of text in a request.")
    ] = defaults.PROMPT_CHARS
    max_body_mb: Annotated[float, typer.Option(help="Largest body, in megabytes.")] = (
        defaults.BODY_BYTES / 1e6
    )
    max_choices: Annotated[
        int, typer.Option(min=1, help="Most answers of a request: prompts x n.")
    ] = defaults.CHOICES
    max_seconds: Annotated[float, typer.Option(help="Longest time of a request.")] = (
        defaults.SECONDS
    )
    drain_seconds: Annotated[
        float, typer.Option(help="Time to finish what is in flight after SIGTERM.")
    ] = defaults.DRAIN_SECONDS
    notice_seconds: Annotated[
        float,
        typer.Option(help="Time between draining at /ready and the closing of the socket."),
    ] = defaults.NOTICE_SECONDS

    def limits(self) -> Limits:
        """What one request may take.

        Raises:
            ConfigError: nothing at all, or a size without end.
        """
        from pillion.serve import Limits

        if not math.isfinite(self.max_body_mb):
            raise ConfigError(f"--max-body-mb is {self.max_body_mb}; give a number of megabytes.")
        return Limits(
            body_bytes=round(self.max_body_mb * 1e6),
            prompt_chars=self.max_prompt_chars,
            output_tokens=self.max_output_tokens,
            choices=self.max_choices,
            queue=self.max_queue,
            seconds=self.max_seconds,
        )


@dataclass(frozen=True, kw_only=True)
class ConductOptions:
    """What the server does with prompts and probes."""

    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="Write prompts and answers to the log.")
    ] = False
    share_prefixes: Annotated[
        str,
        typer.Option(
            metavar="off|key|all",
            help="Whose cached prefixes a prompt may reuse: none, the same key's, all.",
        ),
    ] = defaults.SHARE_PREFIXES
    check: Annotated[
        bool,
        typer.Option(
            help="Run the probes' canaries first: do they say what they said at training?"
        ),
    ] = True
    no_exit: Annotated[
        bool,
        typer.Option(
            "--no-exit", help="Classify every text to the last layer, whatever the probes' exits."
        ),
    ] = False

    @property
    def share(self) -> Any:
        """Whose prefixes.

        Raises:
            ConfigError: a word that is none of those known.
        """
        from pillion.serve.settings import SHARES

        if self.share_prefixes not in SHARES:
            raise unknown_name("value of --share-prefixes", self.share_prefixes, SHARES)
        return self.share_prefixes


@dataclass(frozen=True, kw_only=True)
class SizeOptions:
    """How much runs together."""

    cache_tokens: Annotated[
        int,
        typer.Option(min=1, help="Tokens of all requests and cached prefixes that are held."),
    ] = defaults.CACHE_TOKENS
    max_requests: Annotated[int, typer.Option(min=1, help="Requests that run together.")] = (
        defaults.REQUESTS
    )


def _probe(word: str) -> Artefact:
    """The probe of an option, `DIR` or `NAME=DIR`."""
    from pillion.probe import Artefact
    from pillion.runtime import local_folder

    name, mark, folder = word.partition("=")
    if not mark or "/" in name:
        return Artefact.load(local_folder(word))
    return Artefact.load(local_folder(folder), name)
