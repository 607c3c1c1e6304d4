"""Lines of many rows: the same wherever shards are cut, and none of them twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pillion.backends.fake import FakeBackend
from pillion.core.lines import as_line, json_line
from pillion.errors import Interrupted, StorageError
from pillion.runtime import LanguageModel
from pillion.scoring import LineStore, Scored, ScoreJob, Unit, cut, score, score_here
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
    monkeypatch.setattr("pillion.runtime.language_model.BATCH_TOKENS", 150)
    monkeypatch.setattr("pillion.scoring.shards.SHARD_TOKENS", 200)


def lines_of(job: ScoreJob, rows: list[list[int]], folder: Path | None = None) -> list[str | None]:
    backend = FakeBackend()
    return score(score_here(backend), job, backend.identity, rows, LineStore(folder))


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
    job: ScoreJob, rows: list[list[int]], small: None, tmp_path: Path
) -> None:
    whole = lines_of(job, rows, tmp_path / "work")
    kept = sorted((tmp_path / "work").iterdir())
    kept[0].unlink()
    kept[1].write_text(kept[1].read_text()[:-1])  # not whole: its last line has no end
    asked: list[str] = []

    def counted(
        job: ScoreJob, units: list[Unit], tell: Callable[[int], object]
    ) -> Iterator[Scored]:
        asked.extend(shard.name for shard, _ in units)
        yield from score_here(FakeBackend())(job, units, tell)

    again = score(counted, job, FakeBackend().identity, rows, LineStore(tmp_path / "work"))
    assert again == whole
    assert asked == [path.name for path in kept[:2]]


def test_progress_counts_what_is_kept_as_done(
    job: ScoreJob, rows: list[list[int]], small: None, tmp_path: Path
) -> None:
    lines_of(job, rows, tmp_path / "work")
    next((tmp_path / "work").iterdir()).unlink()
    done: list[int] = []

    def note(stage: str, done_tokens: int, total_tokens: int, metric: float | None = None) -> None:
        assert (stage, total_tokens) == ("predict", sum(LENGTHS))
        done.append(done_tokens)

    store = LineStore(tmp_path / "work")
    score(score_here(FakeBackend()), job, FakeBackend().identity, rows, store, note)
    assert done == sorted(done) and done[0] > sum(LENGTHS) / 3 and done[-1] == sum(LENGTHS)


def test_an_interrupted_run_says_how_it_is_finished(
    job: ScoreJob, rows: list[list[int]], tmp_path: Path
) -> None:
    def stopped(*_: object) -> Iterator[Scored]:
        raise KeyboardInterrupt
        yield

    identity = FakeBackend().identity
    with pytest.raises(Interrupted, match="run the same command again"):
        score(stopped, job, identity, rows, LineStore(tmp_path / "work"))
    with pytest.raises(Interrupted, match="nothing is kept"):
        score(stopped, job, identity, rows, LineStore(None))


def test_a_place_that_cannot_be_written_is_named(
    job: ScoreJob, rows: list[list[int]], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="run the same command again"):
        lines_of(job, rows, tmp_path / "file" / "work")


def test_names_of_shards_tell_where_rows_end() -> None:
    """The same tokens cut into other rows have other verdicts; they had one name."""
    names = [cut(rows, "key")[0].name for rows in ([[1, 2], [3]], [[1], [2, 3]], [[1, 2, 3]])]
    assert len(set(names)) == 3
