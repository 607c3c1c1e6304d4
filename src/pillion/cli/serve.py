"""`pillion serve`: an OpenAI-compatible server whose answers carry verdicts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from pillion.cli.app import app, out, print_json
from pillion.cli.options import EngineOptions, Json, Model, Without, takes_options
from pillion.cli.serve_options import (
    AccessOptions,
    ConductOptions,
    LimitOptions,
    RiderOptions,
    SizeOptions,
)
from pillion.core import defaults

if TYPE_CHECKING:
    from pillion.serve import Settings


@app.command()
@takes_options
def serve(
    *,
    model: Model = defaults.MODEL,
    riders: RiderOptions,
    access: AccessOptions,
    limits: LimitOptions,
    conduct: ConductOptions,
    sizes: SizeOptions,
    computing: Annotated[EngineOptions, Without("model", "on_too_long", "allow_mismatch")],
    as_json: Json = False,
) -> None:
    """Serve the model and its probes through an API like OpenAI's.

    Answers of /v1/chat/completions and /v1/completions carry verdicts on the prompt and on the
    response, in a stream with every chunk. Also: /v1/classify, /classify, /v1/moderations,
    /v1/models, /v1/probes, /health, /ready, /metrics. The log is one JSON object a line, on
    standard error.

    Try: pillion serve --probe my-probe, then curl localhost:8000/v1/chat/completions -H
    'Content-Type: application/json' -d '{"model": "embedded", "messages": [{"role": "user",
    "content": "Hello!"}]}'
    """
    from pillion.runtime import ENGINES, PagedSettings, load_engine
    from pillion.serve.run import Place, bind, check_place
    from pillion.serve.run import serve as run
    from pillion.vllm import load_vllm_engine

    settings = _settings(model, riders, access, limits, conduct)
    place = Place(access.host, access.port, limits.drain_seconds, limits.notice_seconds)
    check_place(place, settings)
    artefacts = [one.whole if conduct.no_exit else one for one in riders.artefacts()]
    settings.policies.check({a.name: a for a in artefacts})
    with bind(place) as bound:
        paged = PagedSettings(cache_tokens=sizes.cache_tokens, max_requests=sizes.max_requests)
        engines = {**ENGINES, "vllm": load_vllm_engine}
        dtype, device = computing.computed, computing.device
        loaded = load_engine(access.engine, model, artefacts, dtype, device, paged, engines)
        address, names = bound.getsockname()[:2], [a.name for a in artefacts]
        run(
            loaded,
            settings,
            place,
            bound,
            lambda: _say(address, settings.names[0], names, as_json),
        )


def _settings(
    model: str,
    riders: RiderOptions,
    access: AccessOptions,
    limits: LimitOptions,
    conduct: ConductOptions,
) -> Settings:
    """Everything about the server but its engine and its place."""
    from pillion.serve import Settings

    return Settings(
        names=tuple(access.name or [model]),
        limits=limits.limits(),
        keys=access.keys(),
        policies=riders.policies(),
        dry_run=riders.dry_run,
        log_prompts=conduct.log_prompts,
        share_prefixes=conduct.share,
        check=conduct.check,
        exits=not conduct.no_exit,
        probe_folders=access.folders(),
    )


def _say(address: tuple[str, int], model: str, probes: list[str], as_json: bool) -> None:
    host, port = address
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if as_json:
        print_json({"url": url, "model": model, "probes": probes})
    else:
        riding = ", ".join(probes) or "no probe"
        out.print(f"Serving {model} with {riding} at {url} (Ctrl-C ends it)")
    sys.stdout.flush()
