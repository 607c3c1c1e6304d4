"""Where an interrupted training run goes on: one file, replaced whole after every epoch.

Promises that a crash leaves the state of the last finished epoch, and that another run's file is
refused. Tensors are safetensors and the rest JSON in their header; nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pillion.core.files import replace_file
from pillion.errors import ConfigError, StorageError
from pillion.train.learner import Learner

FILE_NAME = "training.safetensors"
_COUNTS = ("best_epoch", "best_score", "seconds", "curve", "num_steps")


def save_checkpoint(folder: Path, run: str, epoch: int, learners: Sequence[Learner]) -> None:
    """Writes the state after `epoch` epochs, all at once.

    Args:
        folder: made if it is not there.
        run: identity of the run.
        epoch: epochs that are finished.
        learners: all of them, stopped ones too.

    Raises:
        StorageError: the disk is full, or cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for place, learner in enumerate(learners):
        for name, tensor in _tensors(learner).items():
            tensors[f"{place}/{name}"] = tensor.detach().cpu().contiguous()
    counts = [{name: getattr(learner, name) for name in _COUNTS} for learner in learners]
    state = json.dumps({"run": run, "epoch": epoch, "learners": counts})
    content = save(tensors, {"state": state})
    replace_file(folder / FILE_NAME, content, "choose another folder for the unfinished run")


def load_checkpoint(folder: Path, run: str, learners: Sequence[Learner]) -> int:
    """Puts the state of the last finished epoch into the learners.

    Returns:
        How many epochs are finished; 0 where nothing lies in the folder.

    Raises:
        ConfigError: the state of another run lies there.
        StorageError: the file cannot be read.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return 0
    state, tensors = _read(path)
    if state["run"] != run:
        raise ConfigError(
            f"The unfinished training in {folder} is of another model, of other data, settings or "
            "configurations, or of another version of pillion; repeat its command to finish it, or "
            "delete the folder."
        )
    for place, (learner, counts) in enumerate(zip(learners, state["learners"], strict=True)):
        for name in _COUNTS:
            setattr(learner, name, counts[name])
        prefix = f"{place}/"
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        _restore(learner, own)
    return state["epoch"]


def _tensors(learner: Learner) -> dict[str, Tensor]:
    named = {f"now/{n}": p for n, p in learner.network.named_parameters()}
    named |= {f"mean/{n}": p for n, p in learner.average.named_parameters()}
    named |= {f"best/{n}": t for n, t in learner.best.items()}
    for name, parameter in learner.network.named_parameters():
        moments = learner.optimiser.state[parameter]
        named |= {f"{moment}/{name}": tensor for moment, tensor in moments.items()}
    return named


def _restore(learner: Learner, tensors: dict[str, Tensor]) -> None:
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        kind, name = key.split("/", 1)
        groups.setdefault(kind, {})[name] = tensor
    now, mean, best = groups.pop("now"), groups.pop("mean"), groups.pop("best", {})
    for name, parameter in learner.average.named_parameters():
        parameter.data.copy_(mean[name])
    for name, parameter in learner.network.named_parameters():
        parameter.data.copy_(now[name])
        device = parameter.device
        # AdamW counts its steps in a tensor of its own, which its fused form wants on the device.
        state = {moment: named[name].to(device) for moment, named in groups.items()}
        learner.optimiser.state[parameter] = state
    device = next(learner.network.parameters()).device
    learner.best = {name: tensor.to(device) for name, tensor in best.items()}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        # No memory map: what is read is replaced by the next epoch's file.
        content = path.read_bytes()
        header_bytes = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + header_bytes])
        return json.loads(header["__metadata__"]["state"]), load(content)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"The unfinished training at {path} cannot be read ({error}); delete it to start anew."
        ) from error
