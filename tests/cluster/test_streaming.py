"""Slices on workers: what one machine makes of all rows, with no text in the driver."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pillion.backends import Backend
from pillion.backends.fake import FakeBackend
from pillion.cache import CacheReader, CacheSpec
from pillion.cluster import (
    ReadAndScore,
    Tally,
    Tokenise,
    WorkerPool,
    extract_on,
    plan_on,
    predict_on,
    tokenise_on,
)
from pillion.cluster.worker import FinishedUnit
from pillion.core import Scope, Template
from pillion.core.lines import failed_line, json_line
from pillion.data import SlicePlan, read_texts
from pillion.errors import MismatchError, StorageError
from pillion.extract import Maker, cache_key, cache_spec, encode, extract
from pillion.scoring import LineStore, ScoreJob, score
from tiny_models import make_artefact

TEMPLATES: list[tuple[Template, Scope]] = [("raw", "all"), ("chat", "last-user")]


class OneWorker(WorkerPool):
    """A pool without processes; notes which units it was given."""

    def __init__(self, backend: Backend | None = None, most: int = 10**9) -> None:
        super().__init__(None, "fake", workers=2)
        self.backend, self.most = backend or FakeBackend(), most
        self.units: list[Any] = []

    @property
    def maker(self) -> Maker:
        return Maker.of(self.backend)

    def run(self, job: Any, units: Sequence[Any]) -> Iterator[FinishedUnit]:
        for unit in reversed(units):  # workers end in any order
            if len(self.units) == self.most:
                raise KilledError
            self.units.append(unit)
            value, tokens = job(self.backend, unit)
            yield FinishedUnit(value, tokens, 1.0, "worker")


class KilledError(Exception):
    """The driver is gone."""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows of three kinds of files, some of them bad, in small slices."""
    monkeypatch.setattr("pillion.data.slices.SLICE_BYTES", 1000)
    folder, letters = tmp_path / "rows", random.Random(0)
    folder.mkdir()
    texts: list[Any] = ["x\u00e4 " * letters.randint(1, 30) + str(i) for i in range(520)]
    texts[3], texts[40], texts[500] = "", " \n ", "y" * 600
    pq.write_table(pa.table({"text": texts}), folder / "a.parquet", row_group_size=200)
    with open(folder / "b.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [("n", "text"), *((n, f"{t}\n\"'") for n, t in enumerate(texts))]
        )
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    (folder / "c.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


def planned(workers: WorkerPool, source: Path, tmp_path: Path) -> SlicePlan:
    plan = plan_on(workers, str(source), None, None, tmp_path / "work")
    assert len(plan.slices) > 8
    return plan


@pytest.mark.parametrize(("template", "scope"), TEMPLATES)
def test_lines_are_those_of_all_rows_at_once(
    template: Template, scope: Scope, source: Path, tmp_path: Path
) -> None:
    workers, backend = OneWorker(), FakeBackend()
    plan, texts = planned(workers, source, tmp_path), read_texts(source)
    job = ScoreJob((make_artefact("mood", backend.identity, template=template, scope=scope),))
    work = ReadAndScore(job, template, "error", (scope,))
    lines = predict_on(workers, plan, work, tmp_path / "work", Tally())

    encoded = encode(backend, texts.texts, template, scopes=[scope])
    counts = [num_rows for _, num_rows in texts.files]
    wanted = score(backend, job, encoded.token_ids, LineStore(None), counts=counts)
    failed = sorted([*texts.failed, *encoded.failed], key=lambda one: one.row)
    assert [row.row for row in failed][:3] == [4, 41, 501]
    for one in failed:
        wanted[one.row - 1] = json_line(failed_line(one.reason))
    assert list(lines) == wanted
    assert list(lines.failed()) == failed


def small_shards(*arguments: Any) -> CacheSpec:
    return replace(cache_spec(*arguments), shard_bytes=80_000)


@pytest.mark.parametrize(("template", "scope"), TEMPLATES)
def test_a_cache_is_to_the_byte_that_of_all_rows_at_once(
    template: Template, scope: Scope, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pillion.cluster.tokens.SHARD_BYTES", 80_000)
    monkeypatch.setattr("pillion.extract.fill.cache_spec", small_shards)
    workers, backend, layers = OneWorker(), FakeBackend(), (0, 2)
    plan, texts = planned(workers, source, tmp_path), read_texts(source)
    tokens = tokenise_on(workers, plan, Tokenise(tmp_path / "work", template, "error", scope))
    spec = tokens.spec(layers, scope)
    assert len(spec.shards) > 5
    extract_on(workers, tokens, spec, tmp_path / "there")

    encoded = encode(backend, texts.texts, template, scopes=[scope])
    key = cache_key(backend.identity, template, "error", encoded.token_ids)
    here = tmp_path / "here"
    extract(backend, encoded.token_ids, layers, here, key, scope=scope).close()
    assert tokens.failed == list(encoded.failed) or len(tokens.failed) > len(encoded.failed)
    names = sorted(path.name for path in here.iterdir())
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == names
    for name in names:
        assert (tmp_path / "there" / name).read_bytes() == (here / name).read_bytes(), name
    with CacheReader(tmp_path / "there") as reader:
        reader.verify()


def test_what_a_killed_driver_has_kept_is_not_read_again(source: Path, tmp_path: Path) -> None:
    backend = FakeBackend()
    job = ScoreJob((make_artefact("mood", backend.identity),))
    work = ReadAndScore(job, "raw", "error", ("all",))
    plan = planned(OneWorker(), source, tmp_path)
    with pytest.raises(KilledError):
        predict_on(OneWorker(most=4), plan, work, tmp_path / "work", Tally())
    again = OneWorker()
    # Files of lines were gone through before, and none is gone through again.
    plan = planned(again, source, tmp_path)
    only = tmp_path / "work"
    for workers in (OneWorker(), again):
        plan_on(workers, str(source / "c.jsonl"), None, None, only)
    assert again.units == []
    predict_on(again, plan, work, tmp_path / "work", Tally())
    assert len(again.units) == len(plan.slices) - 4
    tokenise = Tokenise(tmp_path / "tokens", "raw", "error", "all")
    with pytest.raises(KilledError):
        tokenise_on(OneWorker(most=4), plan, tokenise)
    again = OneWorker()
    tokenise_on(again, plan, tokenise)
    assert len(again.units) == len(plan.slices) - 4


def test_another_probe_or_another_file_makes_other_slices(source: Path, tmp_path: Path) -> None:
    backend, plan = FakeBackend(), planned(OneWorker(), source, tmp_path)
    probes = [make_artefact("mood", backend.identity, seed=seed) for seed in (0, 1)]
    works = [ReadAndScore(ScoreJob((one,)), "raw", "error", ("all",)) for one in probes]
    names = [
        {work.name(work.job.key(backend.identity), one) for one in plan.slices} for work in works
    ]
    assert not names[0] & names[1] and len(names[0]) == len(plan.slices)
    with open(source / "c.jsonl", "a", encoding="utf-8") as file:
        file.write('\n{"text": "one more"}')
    after = planned(OneWorker(), source, tmp_path)
    changed = {one.name for one in after.slices} - {one.name for one in plan.slices}
    assert changed and {piece.of.file.name for piece in after.slices if piece.name in changed} == {
        f"{source}/c.jsonl"
    }


def test_a_maker_that_does_more_than_round_otherwise_is_refused(
    source: Path, tmp_path: Path
) -> None:
    class Other(FakeBackend):
        """The same model by its name; something in it computes otherwise."""

        def __init__(self) -> None:
            super().__init__()
            self.mixers[0] = self.mixers[0] * 1.01

    plan = planned(OneWorker(), source, tmp_path)
    job = ScoreJob((make_artefact("mood", FakeBackend().identity),))
    work = ReadAndScore(job, "raw", "error", ("all",))
    with pytest.raises(KilledError):
        predict_on(OneWorker(most=2), plan, work, tmp_path / "work", Tally())
    with pytest.raises(MismatchError, match="states of the same tokens differ by 0"):
        predict_on(OneWorker(backend=Other()), plan, work, tmp_path / "work", Tally())


def test_a_node_that_does_not_see_the_folder_says_so(source: Path, tmp_path: Path) -> None:
    plan = planned(OneWorker(), source, tmp_path)
    tokenise = Tokenise(tmp_path / "not-there", "raw", "error", "all")
    with pytest.raises(StorageError, match="does not see"):
        tokenise(FakeBackend(), (tmp_path / "not-there" / "x", plan.slices[0]))
