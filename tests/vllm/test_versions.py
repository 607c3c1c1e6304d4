"""One list says which vLLM probes ride in; what is installed, documented and refused agrees."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from pillion.errors import ConfigError
from pillion.vllm.versions import SUPPORTED, check_version, is_supported

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("version", ["0.31.2", "0.34.0", "0.3.2", "0.320.0", "1.0"])
def test_another_vllm_is_refused(version: str) -> None:
    with pytest.raises(ConfigError, match=rf"vLLM {version} is installed.*0\.32 and 0\.33 only"):
        check_version(version)


@pytest.mark.parametrize("version", ["0.32.0", "0.33.0", "0.33.1rc2"])
def test_a_version_of_the_list_is_taken(version: str) -> None:
    check_version(version)
    assert is_supported(version)


def test_no_vllm_is_told_how_to_install() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'pillion\[vllm\]'"):
        check_version("")


def test_the_extra_has_the_bounds_of_the_list() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    first, last = SUPPORTED[0], SUPPORTED[-1]
    major, minor = map(int, last.split("."))
    wanted = f"vllm>={first},<{major}.{minor + 1}"
    assert wanted in extras["optional-dependencies"]["vllm"]


def test_the_document_names_the_versions_of_the_list() -> None:
    text = (ROOT / "docs" / "vllm.md").read_text()
    assert f"vLLM {' and '.join(SUPPORTED)}" in text
    assert set(re.findall(r"vLLM (0\.\d+)", text)) == set(SUPPORTED)


def test_the_tests_install_the_newest_of_the_list() -> None:
    """A shell script reads the list, which has one form for that: ascending, in one line."""
    assert sorted(SUPPORTED, key=lambda one: [*map(int, one.split("."))]) == list(SUPPORTED)
    script = (ROOT / "tests" / "engine_environment.sh").read_text()
    found = re.search(r"sed -n '(.*)' \"\$supported\"", script)
    assert found is not None
    assert found[1] == r's/^SUPPORTED = .*"\([0-9.]*\)",\{0,1\})$/\1/p'
    listed = (ROOT / "src" / "pillion" / "vllm" / "versions.py").read_text()
    assert re.findall(r'(?m)^SUPPORTED = .*"([0-9.]*)",?\)$', listed) == [SUPPORTED[-1]]
