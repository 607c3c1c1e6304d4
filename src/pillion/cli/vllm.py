"""`pillion vllm`: the option file with which `vllm serve` takes probes along."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pillion.cli.app import app, out, print_json
from pillion.cli.options import AllowMismatch, Dtype, Json, Probes
from pillion.cli.output import write_lines
from pillion.cli.places import check_file
from pillion.core import defaults
from pillion.errors import ConfigError


@app.command("vllm")
def vllm(
    model: Annotated[
        str,
        typer.Argument(help="Model for vllm serve: a folder, a downloaded hub name, embedded."),
    ],
    probe: Probes,
    out_file: Annotated[
        Path,
        typer.Option("--out", help="File for the options; vLLM needs a name that ends in .yaml."),
    ] = Path("pillion.yaml"),
    policy: Annotated[
        Path | None, typer.Option(help="File of policies (block, stop, annotate), as for serve.")
    ] = None,
    dtype: Dtype = defaults.DTYPE,
    allow_mismatch: AllowMismatch = False,
    as_json: Json = False,
) -> None:
    """Write the options for probes in vLLM.

    The probes and the model are checked first. Then start the server with VLLM_PLUGINS=pillion
    vllm serve MODEL --config FILE; its answers carry verdicts. More options of vLLM may be added
    to the command or the file.
    """
    from pillion.backends.checkpoint import read_checkpoint
    from pillion.runtime import local_folder, resolve
    from pillion.vllm import option_file, options
    from pillion.vllm.start import check_probes, policies_of

    if out_file.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"--out {out_file} is not what vLLM reads; give a name in .yaml.")
    check_file(out_file, "--out", policy)
    folders = [local_folder(one) for one in probe]  # as vLLM's processes will read them
    artefacts = [resolve(folder) for folder in folders]
    checkpoint = read_checkpoint(model, dtype)
    check_probes(artefacts, checkpoint.identity, allow_mismatch)
    policies_of(policy, True, artefacts)
    chosen = options(
        checkpoint.architectures, folders, allow_mismatch=allow_mismatch, http=True, policy=policy
    )
    write_lines(option_file(chosen).splitlines(), out_file)
    start = f"VLLM_PLUGINS=pillion vllm serve {checkpoint.folder} --config {out_file}"
    if as_json:
        return print_json({"out": str(out_file), "start": start})
    out.print(f"Wrote {out_file}. Start the server with:")
    out.print(f"  {start}")
