"""Lines of many rows: the same wherever shards are cut, and none of them twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pillion.backends.fake import FakeBackend
from pillion.core.lines import as_line, json_line
from pillion.errors import Interrupted, StorageError
from pillion.runtime import LanguageModel
from pillion.scoring import LineStore, ScoreJob, cut, score
from tiny_models import make_artefact

LENGTHS = [5, 300, 0, 41, 41, 7, 120, 0, 500, 64, 33, 2, 41]


@pytest.fixture
def rows() -> list[list[int]]:
    return [[(7 * row + place) % 250 for place in range(n)] for row, n in enumerate(LENGTHS)]


@pytest.fixture
def job() -> ScoreJob:
    return ScoreJob((make_artefact("mood", FakeBackend().identity),))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of two or three rows, a shard of two or three batches."""
    monkeypatch.setattr("pillion.runtime.language_model.SCORING_TOKENS", 150)
    monkeypatch.setattr("pillion.scoring.shards.SHARD_TOKENS", 200)


def lines_of(job: ScoreJob, rows: list[list[int]], folder: Path | None = None) -> list[str | None]:
    backend = FakeBackend()
    return score(backend, job, rows, LineStore(folder))


def test_lines_are_those_of_all_rows_scored_at_once(
    job: ScoreJob, rows: list[list[int]], small: None
) -> None:
    filled = [row for row in rows if row]
    verdicts = LanguageModel(FakeBackend()).score_rows(filled, job.artefacts)
    at_once = iter([json_line(as_line(one, set())) for one in verdicts])
    assert len(cut(rows, "key")) > 2
    # To the last bit: a shard holds whole batches, and rows without tokens have no line.
    assert lines_of(job, rows) == [next(at_once) if row else None for row in rows]


def test_every_row_with_tokens_is_in_one_shard(rows: list[list[int]], small: None) -> None:
    found = [row for shard in cut(rows, "key") for row in shard.row_ids]
    assert sorted(found) == [row for row, length in enumerate(LENGTHS) if length]
    assert all(list(shard.row_ids) == sorted(shard.row_ids) for shard in cut(rows, "key"))


def test_names_change_with_rows_model_and_probes(
    job: ScoreJob, rows: list[list[int]], small: None
) -> None:
    identity = FakeBackend().identity
    names = {shard.name for shard in cut(rows, job.key(identity))}
    assert names == {shard.name for shard in cut(rows, job.key(identity))}
    others = ScoreJob((make_artefact("mood", identity, seed=1),)), ScoreJob(job.artefacts)
    keys = [others[0].key(identity), job.key(FakeBackend(seed=1).identity)]
    assert others[1].key(identity) == job.key(identity)
    assert all(not names & {shard.name for shard in cut(rows, key)} for key in keys)
    changed = [[1, *row[1:]] for row in rows if row]
    assert not names & {shard.name for shard in cut(changed, job.key(identity))}


def test_kept_shards_are_not_scored_again(
    job: ScoreJob,
    rows: list[list[int]],
    small: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = lines_of(job, rows, tmp_path / "work")
    kept = sorted((tmp_path / "work").glob("shard-*"))
    kept[0].unlink()
    kept[1].write_text(kept[1].read_text()[:-1])  # not whole: its last line has no end
    scored: list[int] = []
    score_rows = LanguageModel.score_rows

    def counted(model: LanguageModel, rows: list[list[int]], *more: Any) -> list[Any]:
        scored.append(len(rows))
        return score_rows(model, rows, *more)

    monkeypatch.setattr(LanguageModel, "score_rows", counted)
    assert lines_of(job, rows, tmp_path / "work") == whole
    shards = {shard.name: shard for shard in cut(rows, job.key(FakeBackend().identity))}
    assert scored == [len(shards[path.name].row_ids) for path in kept[:2]]


def test_progress_counts_what_is_kept_as_done(
    job: ScoreJob, rows: list[list[int]], small: None, tmp_path: Path
) -> None:
    lines_of(job, rows, tmp_path / "work")
    next((tmp_path / "work").glob("shard-*")).unlink()
    done: list[int] = []

    def note(stage: str, done_tokens: int, total_tokens: int, metric: float | None = None) -> None:
        assert (stage, total_tokens) == ("predict", sum(LENGTHS))
        done.append(done_tokens)

    store = LineStore(tmp_path / "work")
    score(FakeBackend(), job, rows, store, note)
    assert done == sorted(done) and done[0] > sum(LENGTHS) / 3 and done[-1] == sum(LENGTHS)


def test_an_interrupted_run_says_how_it_is_finished(
    job: ScoreJob, rows: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> list[Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(LanguageModel, "score_rows", stopped)
    with pytest.raises(Interrupted, match="run the same command again"):
        score(FakeBackend(), job, rows, LineStore(tmp_path / "work"))
    with pytest.raises(Interrupted, match="nothing is kept"):
        score(FakeBackend(), job, rows, LineStore(None))


def test_a_place_that_cannot_be_written_is_named(
    job: ScoreJob, rows: list[list[int]], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Not a directory at "):
        lines_of(job, rows, tmp_path / "file" / "work")


def test_names_of_shards_tell_where_rows_end() -> None:
    """The same tokens cut into other rows have other verdicts; they had one name."""
    names = [cut(rows, "key")[0].name for rows in ([[1, 2], [3]], [[1], [2, 3]], [[1, 2, 3]])]
    assert len(set(names)) == 3


def test_rows_are_batched_with_those_of_their_block_of_a_file_alone(
    job: ScoreJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that each reader of a piece of a file makes the same batches."""
    monkeypatch.setattr("pillion.scoring.shards.BLOCK_ROWS", 4)
    rows = [[1] * length for length in (3, 1, 2, 9, 5, 7, 4, 0, 8, 6)]
    scored: list[list[int]] = []

    score_rows = LanguageModel.score_rows

    def noted(model: LanguageModel, rows: list[list[int]], *more: Any) -> list[Any]:
        scored.append([len(row) for row in rows])
        return score_rows(model, rows, *more)

    monkeypatch.setattr(LanguageModel, "score_rows", noted)
    lines = score(FakeBackend(), job, rows, LineStore(None), counts=[6, 4])
    assert scored == [[3, 1, 2, 9], [5, 7], [4, 8, 6]]
    assert [row for row, line in enumerate(lines) if line is None] == [7]
