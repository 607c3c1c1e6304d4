"""`pillion serve` in a process of its own, with a model that calls tools and two trained probes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from spelled_model import save_spelled_model

FRAMES = (
    "Where is a {}?",
    "How do I make a {}?",
    "I saw a {} today.",
    "Tell me about the {}",
    "No {}, thanks.",
    "hello, a {}",
    "Buy a {} now",
    "{}",
)
HARMLESS = ("bakery", "boat", "gift", "train", "letter", "bone", "tomb", "house")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The base address of the API, up to `/v1`.

    The probe `safety` reads the last turn of the user, `answer` every token.
    """
    folder = tmp_path_factory.mktemp("served")
    save_spelled_model(folder / "model")
    train_probes(folder)
    probes = [f"--probe={name}={folder / name}" for name in ("safety", "answer")]
    options = ["--model", folder / "model", "--name=spelled", "--name=smollm", "--port=0"]
    command = [sys.executable, "-m", "pillion", "serve", "--json", *options, *probes]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, (folder / "log").read_text()
        yield f"{json.loads(line)['url']}/v1"
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def train_probes(folder: Path) -> None:
    """Trains on pairs of texts that differ in one word, until probes are sure of them."""
    from pillion import LanguageModel, Probe
    from pillion.train import TrainSettings

    words = [(frame, word) for frame in FRAMES for word in HARMLESS]
    texts = [frame.format(one) for frame, word in words for one in ("bomb", word)]
    labels = ["unsafe", "safe"] * len(words)
    model = LanguageModel.load(str(folder / "model"))
    for name, scope in (("safety", "last-user"), ("answer", "all")):
        how = TrainSettings(epochs=4)
        probe = Probe(model=model, name=name, scope=scope, learning_rate=0.02, train=how)
        probe.fit(texts, labels, validation=(texts, labels))
        probe.save(folder / name)
