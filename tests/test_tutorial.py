"""The tutorial and the pages of how-to are run as they are written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from documented import ROOT, matches, run_page, steps

TUTORIAL = ROOT / "docs" / "tutorial.md"
PAGES = sorted((ROOT / "docs" / "howto").glob("*.md"))
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing")


def test_numbers_and_dots_may_be_anything_and_words_may_not() -> None:
    assert matches("f1 0.5\n...\nSaved in x.", "f1   0.75\nmore\n  words\nSaved in x.")
    assert not matches("f1 0.5\n...\nSaved in x.", "f1 0.75\nSaved in y.")
    assert not matches("f1 0.5", "f2 0.5 and more")


def test_what_needs_vllm_and_what_is_no_file_is_not_run() -> None:
    page = """
```console
# needs vLLM
$ vllm serve
```

```python
import pillion
```

```yaml
# file: policy.yaml
policies: []
```

```console
$ pillion doctor
Ready.
```
"""
    assert steps(page) == [("file: policy.yaml", "policies: []\n"), ("pillion doctor", "Ready.\n")]


@pytest.fixture(scope="module")
def toured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder that the tutorial leaves, and the commands that it ran."""
    place = tmp_path_factory.mktemp("tutorial")
    return place, run_page(TUTORIAL, place)


@pytest.mark.model
@needs_curl
def test_every_command_prints_what_the_tutorial_says(toured: tuple[Path, list[str]]) -> None:
    assert sum(command.startswith("pillion") for command in toured[1]) >= 8


@pytest.mark.model
@needs_curl
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_of_how_to_prints_what_it_says(
    page: Path, toured: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """Each page begins where the tutorial ends."""
    place = shutil.copytree(toured[0], tmp_path / "work")
    assert any(command.startswith("pillion") for command in run_page(page, place))
