"""What only some of pillion needs the rest does not ask for; where it is missing it is named."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pillion.core.extras import EXTRAS, how_to_install

ROOT = Path(__file__).parents[2]
WITHOUT = """
import sys
for name in {names}:
    sys.modules[name] = None  # the import system then says that it is not there
from pillion.cli import main
main()
"""


def run_without(names: set[str], *words: str | Path) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own that lacks these modules."""
    command = [sys.executable, "-c", WITHOUT.format(names=names), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


ABSENT = {module for modules in EXTRAS.values() for module in modules}


def modules_of(requirements: list[str]) -> set[str]:
    """As imports name them; of these packages they are the packages' own names."""
    return {re.split(r"[\[><=~]", one)[0].replace("-", "_") for one in requirements}


def test_every_extra_has_the_modules_of_its_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - {"all", "dev"}
    for extra, modules in EXTRAS.items():
        assert modules_of(extras[extra]) - {"pillion"} == set(modules), extra
    assert not modules_of(project["dependencies"]) & ABSENT


def test_the_package_that_measures_is_of_the_same_version() -> None:
    pillion, bench = (
        tomllib.loads((ROOT / part / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for part in (".", "bench")
    )
    assert bench["version"] == pillion["version"]
    assert f"pillion[all]=={pillion['version']}" in bench["dependencies"]
    named = pillion["optional-dependencies"]["bench"]
    assert named == [f"{bench['name']}=={bench['version']}"]


def test_a_module_is_found_by_its_package() -> None:
    assert how_to_install("fastapi.responses") == "python -m pip install 'pillion[serve]'"
    assert how_to_install("fast") is None and how_to_install(None) is None


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained where no extra is installed."""
    folder = tmp_path_factory.mktemp("core")
    rows = "\n".join(f"{word} day {i},{label}" for i in range(12) for word, label in WORDS)
    (folder / "rows.csv").write_text("text,label\n" + rows, encoding="utf-8")
    words = ("train", "--data", folder / "rows.csv", "--model", "fake", "--out", folder / "probe")
    ran = run_without(ABSENT, *words)
    assert ran.returncode == 0, ran.stderr
    return folder / "probe"


WORDS = (("fine", "good"), ("poor", "bad"))


def test_verdicts_need_no_extra(probe: Path) -> None:
    model = ("--model", "fake", "--probe", probe)
    ran = run_without(ABSENT, "predict", *model, "--text", "fine day")
    assert ran.returncode == 0 and "label" in ran.stdout
    assert run_without(ABSENT, "generate", *model, "hello", "--max-tokens", "2").returncode == 0


ON_ROWS = ("--model", "fake", "--probe", "PROBE", "--data", "ROWS")


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("serve", ("serve", "--model", "fake", "--probe", "PROBE", "--port", "0")),
        ("calibrate", ("calibrate", *ON_ROWS, "--coverage", "0.5")),
        ("report", ("report", *ON_ROWS, "--out", "PAGE")),
        ("bench", ("bench", "accuracy", "--out", "PAGE")),
        ("bench", ("bench", "--help")),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(
    probe: Path, extra: str, words: tuple[str, ...]
) -> None:
    given = {"PROBE": str(probe), "ROWS": str(probe.parent / "rows.csv")}
    given["PAGE"] = str(probe.parent / "page.html")
    ran = run_without(ABSENT, *(given.get(word, word) for word in words))
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.splitlines()[-1].endswith(f"python -m pip install 'pillion[{extra}]'.")


def test_help_loads_no_big_library() -> None:
    big = {"torch", "transformers", "sklearn", "scipy", "matplotlib", "fastapi"}
    ran = run_without(big, "--help")
    assert ran.returncode == 0, ran.stderr
    assert "train" in ran.stdout
