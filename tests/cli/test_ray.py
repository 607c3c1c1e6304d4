"""`--ray` on a real cluster of two node processes: the same bytes, whatever is lost on the way."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from program import Ran, Run, write_rows
from ray_cluster import (
    NODE,
    SHARD_BYTES,
    contents,
    kill_in_the_middle,
    shards_in,
    small_shards,
    start_cluster,
    wait_until,
)

from pillion.cache import CacheReader
from pillion.cluster import Tally, WorkerPool
from pillion.cluster.worker import FinishedUnit
from pillion.extract.makers import TOLERANCES
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = [
    pytest.mark.ray,
    # Ray says in advance what a later version will do about GPUs; there are none here.
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray", reason="needs pillion[ray]")
    started = start_cluster()
    yield started
    started.shutdown()


@pytest.fixture(autouse=True)
def two_nodes(cluster: Any) -> None:
    """What a test before has killed is there again."""
    while len(cluster.list_all_nodes()) < 2:
        cluster.add_node(**NODE)
    cluster.wait_for_nodes()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that takes about a second for 15,000 tokens."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six hundred rows of a hundred thousand tokens in two files."""
    folder, letters = tmp_path_factory.mktemp("data") / "texts", random.Random(0)
    folder.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        lengths = [letters.randint(20, 300) for _ in range(300)]
        rows = [{"text": "".join(letters.choices("abcdefgh ijk", k=n)) + "x"} for n in lengths]
        write_rows(folder / name, rows)
    return folder


@pytest.fixture
def shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of run cut the cache into many shards."""
    monkeypatch.setattr("pillion.extract.fill.cache_spec", small_shards)
    monkeypatch.setattr("pillion.cluster.tokens.SHARD_BYTES", SHARD_BYTES)  # what --ray asks for


def extract(texts: Path, model: Path | str, out: Path) -> tuple[str | Path, ...]:
    words = ("extract", "--data", texts, "--model", model, "--template", "raw")
    return (*words, "--out", out, "--json")


def made_here(texts: Path, model: Path, folder: Path, threads: int) -> Path:
    """What the same command leaves without a cluster, from a process of so many threads."""
    from pillion.cli import main

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr("pillion.extract.fill.cache_spec", small_shards)
        main([str(word) for word in extract(texts, model, folder)])
    torch.set_num_threads(before)
    assert stop.value.code == 0
    return folder


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, texts: Path, model: Path) -> Path:
    """Of one thread, as workers have: on one kind of processor the same bytes."""
    return made_here(texts, model, tmp_path_factory.mktemp("local") / "out", threads=1)


@pytest.fixture
def at_work(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The workers that have finished shards; none begins before both have loaded their models."""
    workers: set[str] = set()
    wait, add = WorkerPool._wait, Tally.add

    def wait_for_both(pool: WorkerPool, answers: list[Any], may_take_long: bool) -> Any:
        starting = [] if workers else list(pool._starting)
        return wait(pool, starting or answers, may_take_long)

    def note(tally: Tally, done: FinishedUnit) -> None:
        workers.add(done.worker)
        add(tally, done)

    monkeypatch.setattr(WorkerPool, "_wait", wait_for_both)
    monkeypatch.setattr(Tally, "add", note)
    return workers


def tokens_by_workers(ran: Ran) -> int:
    return sum(worker["tokens"] for worker in ran.json["workers"])


def test_a_node_that_is_killed_in_the_middle_loses_nothing_and_repeats_nothing(
    run: Run,
    cluster: Any,
    texts: Path,
    model: Path,
    local: Path,
    tmp_path: Path,
    shards: None,
    at_work: set[str],
) -> None:
    out, left = tmp_path / "out", list[int]()

    def kill() -> None:
        wait_until(lambda: len(at_work) == 2 and len(shards_in(out)) >= 3)
        left.append(len(shards_in(local)) - len(shards_in(out)))
        kill_in_the_middle(cluster)

    killer = threading.Thread(target=kill)
    killer.start()
    ran = run(*extract(texts, model, out), "--ray", cluster.address)
    killer.join()
    assert ran.code == 0, ran.err
    assert left[0] > 1 and "A worker was lost" in ran.err
    assert len(ran.json["workers"]) == 2
    assert tokens_by_workers(ran) == ran.json["tokens"]
    assert contents(out) == contents(local)


def test_another_number_of_threads_rounds_otherwise_at_most(
    run: Run, cluster: Any, texts: Path, model: Path, tmp_path: Path, shards: None
) -> None:
    """On some processors bytes were not equal, which a local run of more threads told."""
    ran = run(*extract(texts, model, tmp_path / "there"), "--ray", cluster.address)
    assert ran.code == 0, ran.err
    here = made_here(texts, model, tmp_path / "here", threads=2)
    assert shards_in(here) == shards_in(tmp_path / "there")
    with CacheReader(here / "train") as one, CacheReader(tmp_path / "there" / "train") as other:
        assert one.spec == other.spec
        for row in range(len(one)):
            first, second = one.read(row).float(), other.read(row).float()
            far = (first - second).norm(dim=-1) / first.norm(dim=-1)
            assert not len(far) or float(far.max()) <= TOLERANCES["float32"]


def test_a_driver_that_is_killed_is_finished_by_the_same_command(
    run: Run, cluster: Any, texts: Path, model: Path, local: Path, tmp_path: Path, shards: None
) -> None:
    out = tmp_path / "out"
    command = [*map(str, extract(texts, model, out)), "--ray", cluster.address]
    program = [sys.executable, __file__, *command]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen(program, env=os.environ | paths, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(shards_in(out)) >= 3)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    kept = shards_in(out)
    assert len(kept) < len(shards_in(local))
    assert not (out / "train" / "manifest.json").exists()
    ran = run(*command)
    assert ran.code == 0, ran.err
    # What lay there whole was not computed again.
    assert 0 < tokens_by_workers(ran) < ran.json["tokens"] * (1 - len(kept) / 30)
    assert contents(out) == contents(local)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for the cache, and not much more."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted by this user")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up_keeps_what_is_whole_for_the_same_command(
    run: Run, cluster: Any, texts: Path, model: Path, local: Path, small_disk: Path, shards: None
) -> None:
    out, ballast = small_disk / "out", small_disk / "ballast"

    def fill() -> None:
        wait_until(lambda: len(shards_in(out)) >= 3)
        with open(ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free)

    filler = threading.Thread(target=fill)
    filler.start()
    ran = run(*extract(texts, model, out), "--ray", cluster.address)
    filler.join()
    assert ran.code == 1 and ran.out == ""
    assert "No space left on device" in ran.err.splitlines()[-1]
    ballast.unlink()
    assert 3 <= len(shards_in(out)) < len(shards_in(local))
    ran = run(*extract(texts, model, out), "--ray", cluster.address)
    assert ran.code == 0, ran.err
    assert tokens_by_workers(ran) < ran.json["tokens"]
    assert contents(out) == contents(local)


def test_rows_that_fail_on_a_cluster_are_those_that_fail_here(
    run: Run, cluster: Any, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [{"text": f"text {i}"} for i in range(40)]
    rows[3], rows[17], rows[30] = {"text": " "}, {"text": "x" * 600}, {"text": 7}
    data = write_rows(tmp_path / "rows.jsonl", rows)
    here = run(*extract(data, "fake", tmp_path / "here"))
    there = run(*extract(data, "fake", tmp_path / "there"), "--ray", "auto")
    assert here.code == there.code == 1
    assert "3 of 40 rows failed" in there.err and "failed.jsonl" in there.err
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    failed = (tmp_path / "there" / "failed.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in failed] == [4, 18, 31]


def test_an_error_of_a_worker_arrives_as_one_sentence(
    run: Run, cluster: Any, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [{"text": "x"}])
    ran = run(*extract(data, "/no/such/model", tmp_path / "out"), "--ray", cluster.address)
    assert ran.code == 2 and ran.out == ""
    (sentence,) = ran.err.splitlines()
    assert sentence.startswith("pillion: Worker ") and "/no/such/model" in sentence
    assert not (tmp_path / "out").exists()


def predict(probe: Path, data: Path, out: Path) -> tuple[str | Path, ...]:
    return ("predict", "--probe", probe, "--model", "fake", "--input", data, "--out", out)


def test_predicted_lines_are_those_of_one_machine(
    run: Run, cluster: Any, probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pillion.scoring.shards.SHARD_TOKENS", 2000)
    letters = random.Random(1)
    rows: list[dict[str, Any]] = [{"text": "x" * letters.randint(1, 400)} for _ in range(300)]
    rows[7], rows[11] = {"text": None}, {"text": "y" * 600}
    data = write_rows(tmp_path / "rows.jsonl", rows)
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    ran = run(*predict(probe, data, here))
    assert ran.code == 1 and "2 of 300 rows failed" in ran.err
    ran = run(*predict(probe, data, there), "--ray", cluster.address)
    assert ran.code == 1 and "2 of 300 rows failed" in ran.err
    assert any(line.startswith("Worker ") for line in ran.err.splitlines())
    assert here.read_bytes() == there.read_bytes()
    lists = [path.with_name(f"{path.stem}.failed.jsonl") for path in (here, there)]
    assert lists[0].read_bytes() == lists[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("here.failed.jsonl", "here.jsonl", "rows.jsonl", "there.failed.jsonl", "there.jsonl"),
    ]


def test_a_killed_driver_leaves_lines_that_nobody_scores_again(
    run: Run, cluster: Any, probe: Path, tmp_path: Path
) -> None:
    letters = random.Random(2)
    rows = ["".join(letters.choices("abcdefgh ", k=400)) + "x" for _ in range(9000)]
    (tmp_path / "rows").mkdir()
    for place in range(3):
        table = pa.table({"text": rows[3000 * place : 3000 * (place + 1)]})
        pq.write_table(table, tmp_path / "rows" / f"{place}.parquet", row_group_size=700)
    out, work = tmp_path / "lines.jsonl", tmp_path / ".lines.jsonl.work"
    command = [*map(str, predict(probe, tmp_path / "rows", out)), "--ray", cluster.address]
    program = [sys.executable, __file__, *command]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen(program, env=os.environ | paths, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(list(work.glob("slice-*"))) >= 3)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    kept = [path.read_text("utf-8").splitlines() for path in work.glob("slice-*.jsonl")]
    kept_tokens = sum(json.loads(lines[0])["tokens"] for lines in kept)
    kept_rows = sum(len(lines) - 1 for lines in kept)
    assert not out.exists() and 0 < kept_rows < len(rows)
    ran = run(*command)
    assert ran.code == 0, ran.err
    told = re.findall(r"Worker \S+: ([\d,]+) tokens,", ran.err)
    did = sum(int(number.replace(",", "")) for number in told)
    # All rows have as many tokens: those that were left, and not one more.
    assert did * kept_rows == kept_tokens * (len(rows) - kept_rows)
    here = tmp_path / "here.jsonl"
    assert run(*predict(probe, tmp_path / "rows", here)).code == 0
    assert out.read_bytes() == here.read_bytes()
    assert not work.exists()


if __name__ == "__main__":
    import pillion.cluster.tokens
    from pillion.cli import main

    vars(pillion.cluster.tokens)["SHARD_BYTES"] = SHARD_BYTES
    main(sys.argv[1:])
