# pyright: reportMissingImports=false
"""Starts SGLang's own server with probes in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pillion.backends.checkpoint import Checkpoint
from pillion.backends.rotation import check_engine_rotation
from pillion.errors import ConfigError
from pillion.probe import Artefact
from pillion.sglang.routes import RouteFilter
from pillion.sglang.settings import SglangProbeSettings
from pillion.sglang.start import GRAPHS_OFF, PAGE_TOKENS, check_engine, check_numbers


def options_of(folder: Path, dtype: str, given: Sequence[str]) -> list[str]:
    """Options of SGLang's server.

    Args:
        folder: of the model.
        dtype: of its weights.
        given: a user's, which come last and count.

    Raises:
        ConfigError: a user gives what is ours to give.
    """
    named = {one.partition("=")[0] for one in given if one.startswith("--")}
    for name in ("--model-path", "--model", "--config"):
        if name in named:
            raise ConfigError(
                f"{name} is among SGLang's options, and `pillion sglang` gives it; take it out "
                "(the model stands first)."
            )
    own = ["--model-path", str(folder), "--dtype", dtype]
    if "--page-size" not in named:
        own += ["--page-size", str(PAGE_TOKENS)]
    for name in GRAPHS_OFF:
        if name not in named:
            own += [name, "disabled"]
    return [*own, *given]


def run(
    checkpoint: Checkpoint,
    artefacts: Sequence[Artefact],
    settings: SglangProbeSettings,
    options: Sequence[str],
    say: Callable[[str], None],
) -> None:
    """Serves until it is ended.

    Args:
        checkpoint: the model.
        artefacts: the probes, checked against it.
        settings: of them.
        options: see `options_of`.
        say: told the server's address, as soon as it answers.

    Raises:
        ConfigError: SGLang is to run in a way that probes do not ride with.
    """
    os.environ |= settings.variables()
    with TemporaryDirectory() as folder:
        # Read where prometheus_client is imported, which our parts do before SGLang's.
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", folder)
        from sglang.srt.arg_groups.overrides import resolving_view
        from sglang.srt.plugins import load_plugins
        from sglang.srt.server_args import prepare_server_args
        from sglang.srt.utils import kill_process_tree

        load_plugins()
        from sglang.srt.entrypoints.http_server import app, launch_server

        from pillion.riding.middleware import VerdictMiddleware
        from pillion.riding.verdicts import probes_json
        from pillion.sglang.engine_proxy import use_codec
        from pillion.sglang.hooks import check_hooks

        check_hooks()
        server_args: Any = prepare_server_args(list(options))
        server_args.resolve_once()
        chosen = resolving_view(server_args)
        _check(chosen, checkpoint, settings)
        use_codec(checkpoint.codec)
        app.state.pillion_probes = tuple(artefacts)

        @app.get("/v1/probes")
        async def probes() -> dict[str, Any]:
            return probes_json(artefacts)

        app.add_middleware(VerdictMiddleware)
        app.add_middleware(RouteFilter)
        url = f"http://{chosen.host}:{chosen.port}"
        try:
            launch_server(server_args, launch_callback=lambda: say(url))
        finally:
            kill_process_tree(os.getpid(), include_parent=False)


def _check(chosen: Any, checkpoint: Checkpoint, settings: SglangProbeSettings) -> None:
    """Returns if SGLang is to run the model that was read, as probes ride."""
    if os.environ.get("SGLANG_RUST_SERVER", "").lower() in ("1", "true"):
        raise ConfigError("SGLANG_RUST_SERVER is set, whose answers carry no verdicts; unset it.")
    got = chosen.model_path, chosen.dtype
    if got != (wanted := (str(checkpoint.folder), checkpoint.dtype)):
        raise ConfigError(
            f"SGLang's options change the model or its dtype to {got}, and the probes were checked "
            f"against {wanted}; take them out, and give the model first."
        )
    if checkpoint.rotation is not None:
        window = chosen.context_length or checkpoint.rotation.tokens + 1
        check_engine_rotation(checkpoint.rotation, "SGLang", window)
    check_engine(chosen)
    if not settings.allow_mismatch:
        check_numbers(chosen, checkpoint.is_quantised)
