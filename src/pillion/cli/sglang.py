"""`pillion sglang`: SGLang's own server, with probes in it."""

from __future__ import annotations

from typing import Annotated

import typer

from pillion.cli.app import app, out, print_json
from pillion.cli.options import AllowMismatch, Dtype, Json, Probes
from pillion.core import defaults
from pillion.errors import ConfigError


@app.command("sglang", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def sglang(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A folder, a downloaded hub name, embedded.")],
    probe: Probes,
    dtype: Dtype = defaults.DTYPE,
    allow_mismatch: AllowMismatch = False,
    as_json: Json = False,
) -> None:
    """Serve with SGLang, with verdicts in its answers.

    The probes and the model are checked first, then SGLang's own server starts. All further
    options are SGLang's, such as --port 30000.
    """
    from pillion.backends.checkpoint import read_checkpoint
    from pillion.core import ANSWER_SCOPES
    from pillion.runtime import resolve
    from pillion.sglang.run import options_of, run
    from pillion.sglang.settings import SglangProbeSettings
    from pillion.sglang.start import check_probes
    from pillion.sglang.versions import check_model, check_version, sglang_version

    if model.startswith("-"):
        raise ConfigError(
            f"{model} stands where the model does; give the model first, then --probe, then "
            "SGLang's own options."
        )
    check_version(sglang_version())
    artefacts = [resolve(folder) for folder in probe]
    checkpoint = read_checkpoint(model, dtype)
    check_model(checkpoint.architectures[0])
    check_probes(artefacts, checkpoint.identity, allow_mismatch)
    of_answers = any(a.card.scope in ANSWER_SCOPES and a.card.scope != "all" for a in artefacts)
    reasoning = checkpoint.codec.reasoning_ids if of_answers else None
    architecture = checkpoint.architectures[0]
    settings = SglangProbeSettings.of(probe, architecture, allow_mismatch, reasoning)
    options = options_of(checkpoint.folder, checkpoint.dtype, context.args)
    names = list(settings.probes)
    run(checkpoint, artefacts, settings, options, lambda url: _say(url, model, names, as_json))


def _say(url: str, model: str, probes: list[str], as_json: bool) -> None:
    if as_json:
        print_json({"url": url, "model": model, "probes": probes})
    else:
        out.print(f"SGLang serves {model} with {', '.join(probes)} at {url}")
