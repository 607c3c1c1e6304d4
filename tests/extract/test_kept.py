"""States on disk, and what is said before they are written."""

from __future__ import annotations

from pathlib import Path

from pillion.backends.fake import FakeBackend
from pillion.extract import kept_states


def test_the_size_is_said_first_and_what_lies_there_is_taken(tmp_path: Path) -> None:
    backend, folder = FakeBackend(), tmp_path / "states"
    tokens = [backend.encode(f"a day of {i} hours", "raw") for i in range(24)]
    said: list[tuple[str, bool]] = []
    passes: list[str] = []

    def say(sentence: str) -> None:
        said.append((sentence, folder.exists()))

    def progress(stage: str, done: int, total: int, metric: float | None = None) -> None:
        passes.append(stage)

    def keep() -> None:
        source = kept_states(backend, tokens, (0, 2), folder, "raw", "error", progress, say)
        with source.reader as reader:
            assert reader.spec.lengths == tuple(map(len, tokens)) and reader.layers == (0, 2)

    keep()
    ((sentence, was_there),) = said
    assert "24 rows" in sentence and not was_there and passes
    passes.clear()
    keep()
    assert not passes
