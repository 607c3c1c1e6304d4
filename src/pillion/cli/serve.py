"""`pillion serve`: an OpenAI-compatible server whose answers carry verdicts."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pillion.cli.app import Device, Dtype, Exact, Json, Model, app, dtype_of, out, print_json
from pillion.errors import ConfigError, unknown_name


@app.command()
def serve(
    model: Model = "embedded",
    probe: Annotated[
        list[str] | None,
        typer.Option(
            "--probe",
            metavar="[NAME=]DIR",
            help="Folder of a trained probe, under a name of your choice; repeat it for several.",
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="What follows from verdicts: a YAML or TOML file (docs/serve.md)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only log what the policies would do.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="What runs the model: transformers or vllm.")
    ] = "transformers",
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="What clients call the model; default: as --model. May be repeated.",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="One API key a line; behind it admin (may change probes), name=, and quotas: "
            "requests= and tokens= a minute, in_flight=. Also: PILLION_API_KEYS, "
            "PILLION_ADMIN_KEYS. Without keys only this machine may ask."
        ),
    ] = None,
    probe_folder: Annotated[
        list[Path] | None,
        typer.Option(
            "--probe-folder",
            metavar="DIR",
            help="POST /v1/probes may load probes from inside this folder; may be repeated.",
        ),
    ] = None,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Requests that may wait to begin; more get 429.")
    ] = 128,
    max_output_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer, in tokens.")
    ] = 4096,
    max_prompt_chars: Annotated[
        int, typer.Option(min=1, help="Most characters of text in a request.")
    ] = 400_000,
    max_body_mb: Annotated[float, typer.Option(help="Largest body, in megabytes.")] = 8.0,
    max_choices: Annotated[
        int, typer.Option(min=1, help="Most answers of a request: prompts x n.")
    ] = 16,
    max_seconds: Annotated[float, typer.Option(help="Longest time of a request.")] = 300.0,
    drain_seconds: Annotated[
        float, typer.Option(help="Time to finish what is in flight after SIGTERM.")
    ] = 30.0,
    notice_seconds: Annotated[
        float,
        typer.Option(help="Time between draining at /ready and the closing of the socket."),
    ] = 0.0,
    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="Write prompts and answers to the log.")
    ] = False,
    share_prefixes: Annotated[
        str,
        typer.Option(
            metavar="off|key|all",
            help="Whose cached prefixes a prompt may begin with: nobody's, the same key's, all.",
        ),
    ] = "key",
    check: Annotated[
        bool,
        typer.Option(
            help="Run the probes' canaries first: do they say what they said at training?"
        ),
    ] = True,
    no_exit: Annotated[
        bool,
        typer.Option(
            "--no-exit", help="Classify every text to the last layer, whatever the probes' exits."
        ),
    ] = False,
    cache_tokens: Annotated[
        int,
        typer.Option(min=1, help="Tokens of all requests and cached prefixes that are held."),
    ] = 32768,
    max_requests: Annotated[int, typer.Option(min=1, help="Requests that run together.")] = 64,
    dtype: Dtype = "auto",
    exact: Exact = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Serve the model and its probes like OpenAI's API.

    Answers of /v1/chat/completions and /v1/completions carry verdicts on the prompt and on the
    response, in a stream with every chunk. Also: /v1/classify, /classify, /v1/moderations,
    /v1/models, /v1/probes, /health, /ready, /metrics. The log is one JSON object a line, on
    standard error.

    Try: pillion serve --probe my-probe, then curl localhost:8000/v1/chat/completions -H
    'Content-Type: application/json' -d '{"model": "embedded", "messages": [{"role": "user",
    "content": "Hello!"}]}'
    """
    from pillion.runtime import ENGINES, PagedSettings, load_engine
    from pillion.serve import Limits, Policies, Settings, load_keys, read_policies
    from pillion.serve.run import Place, bind, check_place
    from pillion.serve.run import serve as run
    from pillion.vllm import load_vllm_engine

    limits = Limits(
        body_bytes=round(max_body_mb * 1e6),
        prompt_chars=max_prompt_chars,
        output_tokens=max_output_tokens,
        choices=max_choices,
        queue=max_queue,
        seconds=max_seconds,
    )
    settings = Settings(
        names=tuple(name or [model]),
        limits=limits,
        keys=load_keys(api_key_file, os.environ),
        policies=read_policies(policy) if policy else Policies(),
        dry_run=dry_run,
        log_prompts=log_prompts,
        share_prefixes=_share(share_prefixes),
        check=check,
        exits=not no_exit,
        probe_folders=_folders(probe_folder or []),
    )
    place = Place(host, port, drain_seconds, notice_seconds)
    check_place(place, settings)
    artefacts = [_probe(one) for one in probe or []]
    artefacts = [one.whole if no_exit else one for one in artefacts]
    settings.policies.check({a.name: a for a in artefacts})
    with bind(place) as bound:
        sizes = PagedSettings(cache_tokens=cache_tokens, max_requests=max_requests)
        engines = {**ENGINES, "vllm": load_vllm_engine}
        loaded = load_engine(
            engine, model, artefacts, dtype_of(dtype, exact), device, sizes, engines
        )
        address, names = bound.getsockname()[:2], [a.name for a in artefacts]
        run(
            loaded,
            settings,
            place,
            bound,
            lambda: _say(address, settings.names[0], names, as_json),
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


def _probe(word: str) -> Any:
    """The probe of an option, `DIR` or `NAME=DIR`."""
    from pillion.probe import Artefact
    from pillion.runtime import local_folder

    name, mark, folder = word.partition("=")
    if not mark or "/" in name:
        return Artefact.load(local_folder(word))
    return Artefact.load(local_folder(folder), name)


def _share(word: str) -> Any:
    from pillion.serve.settings import SHARES

    if word not in SHARES:
        raise unknown_name("value of --share-prefixes", word, SHARES)
    return word


def _folders(folders: list[Path]) -> tuple[Path, ...]:
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"--probe-folder {folder} is no folder.")
    return tuple(folder.resolve() for folder in folders)
