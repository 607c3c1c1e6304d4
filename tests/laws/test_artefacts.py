"""Laws of saved probes: equal outputs, refusals by name, and no crash that loses both versions.

Run as a program with a folder, this file kills replacing saves in it, one at every step they make.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pillion.core import ModelIdentity, Shape
from pillion.errors import ArtefactError, MismatchError
from pillion.probe import AGGREGATORS, Artefact, Network, build
from pillion.probe.task import TASKS, Task, num_outputs

DIM, LAYERS = 16, (0, 2, 3)
MODEL = ModelIdentity("tiny", "weights", "tokenizer", "template", 3, DIM, "float32", 64)
LABELS: dict[str, tuple[str, ...]] = {
    "binary": ("no", "yes"),
    "multiclass": ("a", "b", "c"),
    "multilabel": ("a", "b", "c", "d"),
}


def artefact(probe: str, task: Task = "binary", seed: int = 0) -> Artefact:
    shape = Shape(len(LAYERS), DIM, num_outputs(task, len(LABELS[task])))
    facts: dict[str, Any] = {
        "probe": probe,
        "task": task,
        "labels": LABELS[task],
        "layers": LAYERS,
        "template": "chat",
        "model": MODEL,
        "data": {"sha256": "", "path": "rows.csv", "num_rows": 8, "split": "train"},
        "seed": seed,
        "training": {},
        "metrics": {},
    }
    return Artefact.of("p", build(probe, shape, seed=seed), **facts)


def outputs(network: Network) -> Tensor:
    hidden = torch.randn(len(LAYERS), 3, 5, DIM, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([5, 2, 0])
    with torch.no_grad():
        return network.eval()(hidden, torch.arange(5) < lengths[:, None])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("probe", AGGREGATORS)
def test_a_loaded_probe_gives_the_saved_ones_outputs_bit_for_bit(
    tmp_path: Path, probe: str, task: Task
) -> None:
    saved = artefact(probe, task)
    saved.save(tmp_path / "p")
    loaded = Artefact.load(tmp_path / "p")
    logits = outputs(saved.network)
    assert torch.equal(outputs(loaded.network), logits)
    assert loaded.card == saved.card
    probs = saved.probabilities(logits)
    assert torch.equal(loaded.probabilities(logits), probs)
    assert [loaded.verdict(row) for row in probs.tolist()] == [
        saved.verdict(row) for row in probs.tolist()
    ]


@pytest.mark.parametrize("probe", AGGREGATORS)
def test_saving_a_loaded_probe_writes_the_same_bytes(tmp_path: Path, probe: str) -> None:
    artefact(probe).save(tmp_path / "p")
    Artefact.load(tmp_path / "p").save(tmp_path / "q")
    for file in (tmp_path / "p").iterdir():
        assert (tmp_path / "q" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("probe", AGGREGATORS)
def test_a_file_of_another_shape_is_refused_by_the_tensors_name(tmp_path: Path, probe: str) -> None:
    artefact(probe).save(tmp_path / "p")
    path = tmp_path / "p" / "card.json"
    card = json.loads(path.read_text())
    card["model"]["dim"] = DIM * 2
    path.write_text(json.dumps(card))
    with pytest.raises(ArtefactError, match=r"tensor '\w+' is \(.*\) and not \(.*32"):
        Artefact.load(tmp_path / "p")


@pytest.mark.parametrize("probe", AGGREGATORS)
@pytest.mark.parametrize(
    ("field", "other", "name"),
    [
        ("dim", 8, "16 wide"),
        ("num_layers", 2, "3 layers"),
        ("weights_sha256", "others", "weights"),
        ("tokenizer_sha256", "others", "tokenizer"),
        ("template_sha256", "others", "chat template"),
        ("dtype", "bfloat16", "dtype"),
    ],
)
def test_a_probe_of_another_model_is_refused_by_name(
    probe: str, field: str, other: object, name: str
) -> None:
    artefact(probe).check(MODEL)
    with pytest.raises(MismatchError, match=name):
        artefact(probe).check(replace(MODEL, **{field: other}))


def test_a_save_killed_at_any_step_leaves_the_old_or_the_new_probe(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    steps = [json.loads(line) for line in run.stdout.splitlines()]
    versions = [step["version"] for step in steps]
    # First the old one, from some step on the new one; in between, the old one set aside.
    assert versions == ["old"] * versions.count("old") + ["new"] * versions.count("new")
    assert {"old", "new"} == set(versions)
    assert {True, False} == {step["set_aside"] for step in steps}
    for step in steps:
        assert step["left_by_the_next_save"] == ["card.json", "notes.txt", "p", "probe.safetensors"]


STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir"}
"""What a save asks of the file system: the audit events that Python raises just before."""


def kill_everywhere(folder: Path) -> None:
    """Kills a replacing save before each of its steps and prints what is left each time."""
    torch.set_num_threads(1)
    old, new = artefact("gate", seed=1), artefact("gate", seed=2)
    for step in range(1, 1000):
        path = folder / str(step) / "p"
        old.save(path)
        (path / "notes.txt").write_text("of the user")
        if not killed_at(step, new, path):
            return
        print(json.dumps(left_by_kill(path, old, new)))


def killed_at(step: int, probe: Artefact, path: Path) -> bool:
    """Saves in a process that is killed before its `step`-th step; False if there are fewer."""
    child = os.fork()
    if child == 0:
        seen: list[str] = []

        def count(event: str, _: object) -> None:
            if event in STEPS:
                seen.append(event)
                if len(seen) == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        probe.save(path)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def left_by_kill(path: Path, old: Artefact, new: Artefact) -> dict[str, object]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = Artefact.load(path)
    version = {1: "old", 2: "new"}[found.card.seed]
    assert torch.equal(outputs(found.network), outputs((old if version == "old" else new).network))
    new.save(path)
    assert Artefact.load(path).card == new.card
    left = sorted(entry.name for entry in path.parent.rglob("*"))
    return {"version": version, "set_aside": bool(caught), "left_by_the_next_save": left}


if __name__ == "__main__":
    kill_everywhere(Path(sys.argv[1]))
