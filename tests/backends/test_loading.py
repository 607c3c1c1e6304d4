"""Which dtype a model is computed in, and which one it is known by."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from pillion.backends import load_backend
from pillion.backends.encoders import load_classifier
from pillion.core.arithmetic import fast_dtype
from pillion.errors import ConfigError
from tiny_models import tiny_model, tiny_tokenizer

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize(
    ("stored", "has", "computed"),
    [
        (BF16, {"avx512_bf16": True}, BF16),
        (BF16, {"amx_bf16": True}, BF16),
        (BF16, {"bf16": True}, BF16),
        (BF16, {"avx2": True, "avx512_bf16": False}, FP32),
        (FP16, {"avx512_bf16": True}, FP32),
        (FP32, {"avx512_bf16": True}, FP32),
    ],
)
def test_a_processor_computes_in_what_it_has_instructions_for(
    monkeypatch: pytest.MonkeyPatch, stored: torch.dtype, has: dict[str, Any], computed: Any
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert fast_dtype(stored, torch.device("cpu")) == computed


def test_an_accelerator_computes_in_the_stored_dtype() -> None:
    assert fast_dtype(BF16, torch.device("cuda")) == BF16


def test_a_model_is_known_by_its_stored_dtype_also_when_it_computes_in_a_wider_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model("llama").to(BF16).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    wide = load_backend(str(tmp_path))
    assert (wide.dtype, wide.identity.dtype) == (FP32, "bfloat16")
    narrow = load_backend(str(tmp_path), dtype="bfloat16")
    assert (narrow.dtype, narrow.identity.dtype) == (BF16, "bfloat16")
    assert wide.identity.weights_sha256 == narrow.identity.weights_sha256
    assert load_backend(str(tmp_path), dtype="float16").identity.dtype == "float16"


def test_a_hub_that_does_not_answer_is_asked_once(tmp_path: Path) -> None:
    """The bug: six tries within half a minute before a misspelt name was told of."""
    code = "from pillion.backends import load_backend; load_backend('no/such')"
    with socket.create_server(("127.0.0.1", 0)) as hub:
        tries: list[bytes] = []
        threading.Thread(target=_hang_up, args=(hub, tries), daemon=True).start()
        place = f"http://127.0.0.1:{hub.getsockname()[1]}"
        away = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), "0")
        environment = {**os.environ, **away, "HF_ENDPOINT": place, "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
    assert "Model 'no/such' could not be loaded" in done.stderr
    assert len([one for one in tries if b"/no/such/resolve/" in one]) == 1


@pytest.mark.parametrize("place", ["/none/such", "./none", "~/none", "a/b/c"])
def test_a_place_that_is_not_there_is_said_to_be_missing_and_no_bad_name_of_a_hub(
    place: str,
) -> None:
    """The hub's library told of repository ids and a `repo_type`, to who mistyped a folder."""
    with pytest.raises(ConfigError, match=r"could not be loaded .there is no such folder or file"):
        load_backend(place)
    with pytest.raises(ConfigError, match=r"could not be loaded .there is no such folder or file"):
        load_classifier(place)


def _hang_up(hub: socket.socket, tries: list[bytes]) -> None:
    """Takes what is asked and says nothing."""
    while True:
        try:
            asked, _ = hub.accept()
        except OSError:
            return
        with asked:
            tries.append(asked.recv(1000))
