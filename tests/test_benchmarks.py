"""Every benchmark can be started."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pillion.backends.fake import FakeBackend
from pillion.data import Rows, read_rows
from pillion.extract import LiveSource, SelectedRows
from pillion.train import Examples
from tiny_models import random_ids, tiny_backend

FOLDER = Path(__file__).parents[1] / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("__"))

PARTS = {
    "attacks",
    "branch",
    "engines",
    "folds",
    "needle_texts",
    "plain_fold",
    "result_file",
    "states",
}
"""What several benchmarks share; none of them is one."""


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_finds_everything_it_imports(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(FOLDER.parent)
    module = importlib.import_module(f"benchmarks.{name}")
    assert module.__doc__
    if name not in PARTS:
        assert callable(module.main)


def test_the_study_of_toxicchat_reads_no_test_row_before_it_is_locked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(FOLDER.parent)
    module = importlib.import_module("benchmarks.real")
    lines = [
        json.dumps({"text": f"text {i}", "label": ["fine", "toxic"][i % 3 == 0]}) for i in range(60)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    opened: list[str] = []

    def read(path: Path, *_: object, **__: object) -> Rows:
        opened.append(path.name)
        return read_rows(tmp_path / "train.jsonl")

    monkeypatch.setattr(module, "read_rows", read)
    train, held, others = module.development_rows()
    assert opened == ["train.parquet"] and others == []
    assert len(train) == 48 and not set(train.texts) & set(held.texts)
    assert set(train.texts) | set(held.texts) == {f"text {i}" for i in range(60)}


def test_the_benchmark_of_answers_reads_test_rows_only_when_it_is_locked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From end to end on rows and a model that are made up."""
    monkeypatch.syspath_prepend(FOLDER.parent)
    module = importlib.import_module("benchmarks.answers")
    folder = (tmp_path / module.DATA_SETS["beavertails"].train).parent
    folder.mkdir()
    for split, count in (("train", 96), ("test", 24)):
        safe = [{"prompt": f"q {i // 2}", "response": f"calm words {i}"} for i in range(count)]
        rows = [
            {**row, "response": row["response"].upper()} if i % 2 else row
            for i, row in enumerate(safe)
        ]
        labels = ["unsafe" if i % 2 else "safe" for i in range(count)]
        table = pa.table({name: [row[name] for row in rows] for name in ("prompt", "response")})
        pq.write_table(table.append_column("label", pa.array(labels)), folder / f"{split}.parquet")
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "DATA", tmp_path)
    monkeypatch.setattr(module, "load_backend", FakeBackend)
    monkeypatch.setattr(module.Encoder, "load", lambda *_: ByLength())
    monkeypatch.setattr(module, "write_result", lambda *_, **kept: written.append(kept))
    for options in ([], ["--locked"]):
        monkeypatch.setattr(
            "sys.argv", ["answers", "--data", "beavertails", "--seeds", "1", *options]
        )
        module.main()

    splits = [[entry["split"] for entry in one["data"]] for one in written]
    assert splits == [["train and validation rows"], ["train and validation rows", "test"]]
    assert [one["settings"]["counted"] for one in written] == ["validation", "test"]


def test_the_side_cache_says_what_the_plain_fold_beside_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From end to end on made-up states; what both say is compared after each run."""
    monkeypatch.syspath_prepend(FOLDER.parent)
    module = importlib.import_module("benchmarks.sidecache")
    written: list[Any] = []
    monkeypatch.setattr(module, "engine", lambda *_: FakeBackend())
    monkeypatch.setattr(module, "write_result", lambda name, rows, **_: written.extend(rows))
    monkeypatch.setattr("sys.argv", ["sidecache", "--pairs", "1", "--rows", "3", "--steps", "20"])
    module.main()
    steps = [one for one in written if one["metric"] == "ms_per_step"]
    assert [(one["phase"], one["scope"], one["ratio"] is None) for one in steps] == [
        ("prompt", "all", False),
        ("answer", "all", False),
        ("prompt", "last-user", False),
        ("answer", "last-user", True),
    ]
    sizes = [one for one in written if one["metric"] == "bytes_per_token"]
    assert all(0 < one["value"] < one["baseline"] for one in sizes) and len(sizes) == 2


def test_the_stream_has_as_many_rows_as_asked_for_and_the_same_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(FOLDER.parent)
    module = importlib.import_module("benchmarks.ray_stream")
    num_bytes = [module.write_files(tmp_path / name, 100, 3, seed=0) for name in "ab"]
    texts = [read_rows(tmp_path / name, label_column=None).texts for name in "ab"]
    assert texts[0] == texts[1] and len(texts[0]) == 100
    assert num_bytes == [sum(map(len, one)) for one in texts]
    assert len(list((tmp_path / "a").iterdir())) == 3


def test_the_rate_of_a_stream_leaves_out_how_long_workers_take_to_start() -> None:
    module = importlib.import_module("benchmarks.ray_stream")
    ran = module.Ran(done=[(0.5, 0), (9.0, 1), (10.0, 3), (15.0, 13), (16.0, 13)], seconds=20)
    assert ran.rows_per_second(2600, 26) == 200.0
    ran.told = "extract 43 %, 700 tokens/s\nWorker a/1: 1,200 tokens, 7 a second.\n"
    assert ran.tokens == 1200


class ByLength:
    """An encoder of two numbers."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[len(text), text.count("a")] for text in texts], dtype=np.float64)


def test_rows_of_one_text_are_never_both_learnt_from_and_held_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One in forty of ToxicChat's held-out rows had its text among those that were learnt from."""
    monkeypatch.syspath_prepend(FOLDER.parent)
    folds = importlib.import_module("benchmarks.folds")
    texts = [f"text {row % 40}" if row % 2 else f"Text  {row % 40} " for row in range(120)]
    targets = np.arange(120) % 40 % 2
    source = LiveSource(FakeBackend(), [[row] for row in range(120)], (0,))
    parts: list[set[str]] = []

    def plain(rows: Iterable[int]) -> set[str]:
        return {" ".join(texts[row].casefold().split()) for row in rows}

    def way(_: object, rows: Examples, choosing: Examples) -> list[None]:
        parts.extend(plain(one.source.row_ids) for one in (rows, choosing))
        return [None]

    def said(networks: list[None], rows: SelectedRows, _: str) -> list[torch.Tensor]:
        parts.append(plain(rows.row_ids))
        return [torch.ones(len(rows.row_ids), 1)]

    monkeypatch.setattr(folds, "evaluate_networks", said)
    learning = folds.Learning("binary", 2)
    found = folds.out_of_fold({"plain": (source, way)}, targets, texts, 3, learning)
    assert (found["plain"] == 1).all() and len(parts) == 9
    for learnt, choosing, held in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        assert not (learnt & choosing) and not (learnt & held) and not (choosing & held)


@pytest.mark.parametrize("learnt", ["inputs", "every layer"])
def test_a_branch_reads_texts_as_one_pass_over_text_and_readers_does(
    learnt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(FOLDER.parent)
    branch_module = importlib.import_module("benchmarks.branch")
    backend, rows = tiny_backend(), [random_ids(4, 1), random_ids(9, 2), random_ids(6, 3)]
    branch = branch_module.Branch(backend, branch_module.Prefixes(backend, rows), 2, learnt, 3, 0)
    table = backend.model.get_input_embeddings().weight
    with torch.no_grad():
        said = branch.logits(rows)
        for row, own in zip(rows, said, strict=True):
            whole = torch.cat([table[row], branch.begin])[None]
            states = backend.decoder(inputs_embeds=whole).last_hidden_state[0, -1]
            torch.testing.assert_close(branch.head(states), own, atol=1e-5, rtol=1e-5)
        branch.inputs += 0.1
        assert (branch.logits(rows) - said).abs().max() > 1e-3, "what is learnt changes nothing"


def test_what_a_branch_learns_leaves_the_model_and_the_texts_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(FOLDER.parent)
    branch_module = importlib.import_module("benchmarks.branch")
    backend, rows = tiny_backend(), [random_ids(4, 1), random_ids(9, 2)]
    prefixes = branch_module.Prefixes(backend, rows)
    before = {name: one.clone() for name, one in backend.model.state_dict().items()}
    first = [layer.keys.clone() for layer in prefixes.of(rows).layers]
    branch = branch_module.Branch(backend, prefixes, 1, "every layer", 3, 0)
    optimiser = torch.optim.SGD([p for p in branch.parameters() if p.requires_grad], lr=1.0)
    branch.logits(rows).sum().backward()
    optimiser.step()
    assert branch.added.abs().max() > 0, "nothing was learnt"
    after = [layer.keys for layer in prefixes.of(rows).layers]
    assert all(map(torch.equal, first, after))
    own = backend.model.state_dict()
    assert all(torch.equal(own[name], one) for name, one in before.items())
