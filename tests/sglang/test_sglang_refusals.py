"""`pillion sglang` does not start where probes could not ride; it says so in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sglang_probed import ProbedModel
from sglang_serving import command, refusal

pytestmark = pytest.mark.sglang


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--enable-hierarchical-cache",), "a cache outside the device"),
        (("--speculative-algorithm", "NGRAM", "--page-size", "1"), "speculative_algorithm=NGRAM"),
        (("--tokenizer-worker-num", "2"), "tokenizer_worker_num=2"),
        (("--load-format", "dummy"), "Load_format=dummy"),
        (("--model-path=/x",), "--model-path is among SGLang's options"),
    ],
)
def test_ways_to_run_that_probes_do_not_ride_with(
    options: tuple[str, ...], said: str, chat: ProbedModel
) -> None:
    assert said in refusal(chat, *options)


def test_a_server_whose_plugins_leave_ours_out(chat: ProbedModel) -> None:
    said = refusal(chat, SGLANG_PLUGINS="pillion_watched")
    assert "has not taken 8 of the hooks" in said and "add pillion to it" in said


def test_a_probe_of_another_model(chat: ProbedModel, tmp_path: Path) -> None:
    other: Any = ProbedModel(tmp_path, "qwen3")
    other.folder = chat.folder
    assert "was trained on" in refusal(other)
    # SGLang takes what an option begins with for the whole.
    own = ProbedModel(tmp_path / "own", "qwen3")
    assert "change the model or its dtype to" in refusal(chat, "--model-pat", str(own.folder))


def test_a_model_that_no_probe_rides_in(chat: ProbedModel, tmp_path: Path) -> None:
    other: Any = ProbedModel(tmp_path, "gemma")
    assert "The model is a GemmaForCausalLM" in refusal(other)


def test_the_model_comes_first(chat: ProbedModel) -> None:
    import subprocess

    parts = command(chat, ())
    parts[2:2] = ["--port", "1"]
    done = subprocess.run(parts, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "give the model first" in done.stderr
