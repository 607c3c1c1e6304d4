"""`--exact`: the model computes in float32, by one name in every verb that reads verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest
from program import Run


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "--text", "a day", "--probe"),
        ("generate", "a day", "--max-tokens", "3", "--probe"),
    ],
    ids=lambda words: words[0],
)
def test_it_is_taken_and_float32_beside_it_too(
    run: Run, probe: Path, words: tuple[str, ...]
) -> None:
    options = ("--model", "fake", "--exact")
    assert run(*words, probe, *options).code == 0
    assert run(*words, probe, *options, "--dtype", "float32").code == 0
    ran = run(*words, probe, *options, "--dtype", "bfloat16")
    assert ran.code == 2 and "--exact computes in float32, --dtype bfloat16 does not" in ran.err


def test_evaluate_and_serve_refuse_another_dtype_beside_it(
    run: Run, probe: Path, data: Path
) -> None:
    options = ("--probe", probe, "--model", "fake", "--exact", "--dtype", "float16")
    for words in (("evaluate", "--data", data), ("serve", "--port", "0")):
        ran = run(*words, *options)
        assert ran.code == 2 and "--exact computes in float32" in ran.err
