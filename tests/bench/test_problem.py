"""Rows are split the same way every time, and nothing is on two sides."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pillion.backends.fake import FakeBackend
from pillion.core import Scope, as_tokens
from pillion.errors import ConfigError, DataError
from pillion.fit import FitSettings, default_scope
from pillion_bench.problem import Problem, drawn, open_problem
from pillion_bench.states import States
from pillion_bench.suite import DataSpec, load_suite


def rows(path: Path, labels: list[str], start: int = 0) -> None:
    lines = [
        json.dumps({"text": f"text {start + i}", "label": label}) for i, label in enumerate(labels)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def problem_of(folder: Path, **spec: object) -> Problem:
    asked = DataSpec(train="train.jsonl", **{"template": "raw"} | spec)  # type: ignore[arg-type]
    return open_problem("mood", asked, folder, locked=True)


def test_shares_are_cut_from_train_and_no_row_is_twice(tmp_path: Path) -> None:
    rows(tmp_path / "train.jsonl", ["a", "b", "c"] * 40)
    problem = problem_of(tmp_path, test=0.25, validation=0.1)
    parts = (problem.train, problem.validation, problem.test)
    assert [len(part) for part in parts] == [81, 9, 30]
    texts = [text for part in parts for text in part.texts]
    assert sorted(texts) == sorted(f"text {i}" for i in range(120))
    assert problem_of(tmp_path, test=0.25, validation=0.1).test.texts == problem.test.texts
    assert problem_of(tmp_path, test=0.25, seed=1).test.texts != problem.test.texts


def test_a_part_names_the_rows_of_its_store(tmp_path: Path) -> None:
    rows(tmp_path / "train.jsonl", ["a", "b"] * 30)
    rows(tmp_path / "test.jsonl", ["a", "b"] * 5, start=100)
    problem = problem_of(tmp_path, test="test.jsonl", max_train_rows=40, max_test_rows=6)
    for part in (problem.train, problem.validation, problem.test):
        stored = problem.stores[part.store]
        assert [stored[row] for row in part.row_ids] == list(part.texts)
    assert len(problem.train) + len(problem.validation) == 40 and len(problem.test) == 6


def test_drawn_rows_are_ascending_and_of_the_seed() -> None:
    assert drawn(5, None, 0).tolist() == drawn(5, 9, 0).tolist() == [0, 1, 2, 3, 4]
    few = drawn(100, 10, 3)
    assert len(set(few.tolist())) == 10 and (np.diff(few) > 0).all()
    assert few.tolist() != drawn(100, 10, 4).tolist()


def test_one_row_a_label_is_said_and_not_refused(tmp_path: Path) -> None:
    rows(tmp_path / "train.jsonl", ["a", "b", "c"])
    problem = problem_of(tmp_path, test=0.3)
    assert len(problem.train) == 3 and problem.test.texts == problem.train.texts
    assert all("its numbers are of the training rows" in note for note in problem.notes)
    assert len(problem.notes) == 2


def test_labels_that_no_drawn_row_has_are_known_all_the_same(tmp_path: Path) -> None:
    rows(tmp_path / "train.jsonl", [f"label {i}" for i in range(50)] * 2)
    rows(tmp_path / "test.jsonl", [f"label {i}" for i in range(50)])
    problem = problem_of(tmp_path, test="test.jsonl", max_train_rows=20)
    assert len(problem.space.names) == problem.num_outputs == 50


def test_a_test_label_that_train_lacks_names_the_file(tmp_path: Path) -> None:
    rows(tmp_path / "train.jsonl", ["a", "b"] * 10)
    rows(tmp_path / "test.jsonl", ["a", "z"])
    with pytest.raises(DataError, match=r"test\.jsonl.*'z'"):
        problem_of(tmp_path, test="test.jsonl")


def test_seen_texts_are_found_whatever_their_case_and_space(tmp_path: Path) -> None:
    rows(tmp_path / "train.jsonl", ["a", "b"] * 10)
    lines = [{"text": " Text  3", "label": "a"}, {"text": "text 30", "label": "b"}]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert problem_of(tmp_path, test="test.jsonl").unseen().tolist() == [False, True]


def test_rows_of_prompt_and_response_are_one_text_to_methods_and_turns_to_the_model(
    tmp_path: Path,
) -> None:
    lines = [
        json.dumps({"q": f"ask {n // 2}", "a": f"answer {n}", "label": "xy"[n % 2]})
        for n in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    spec = DataSpec(
        train="rows.jsonl",
        test=0.25,
        validation=0.2,
        prompt_column="q",
        response_column="a",
        template="raw",
    )
    problem = open_problem("talk", spec, tmp_path, locked=True)
    assert problem.test is not None
    text, turns = problem.test.texts[0], problem.stores["train"][problem.test.row_ids[0]]
    assert text.startswith("user: ask ") and "\nassistant: answer " in text
    assert not isinstance(turns, str) and turns[1].content in text
    prompts = [{t.split("\n")[0] for t in part.texts} for part in (problem.train, problem.test)]
    assert not prompts[0] & prompts[1]


def test_rows_with_labels_that_nobody_judged_are_refused(tmp_path: Path) -> None:
    rows = [{"text": "x", "label": {"a": 1, "b": None}}, {"text": "y", "label": {"b": 1}}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DataError, match="labels that were not judged"):
        open_problem("holes", DataSpec(train="r.jsonl", test="r.jsonl"), tmp_path, locked=True)


TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "second"},
]


def talks(path: Path, with_answer: bool = True) -> None:
    """Forty conversations, which end with an answer or not."""
    lines = [
        {
            "messages": [*TALK, {"role": "assistant", "content": f"answer {n}"}][: 4 + with_answer],
            "label": "ab"[n % 2],
        }
        for n in range(40)
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


def of_turns(folder: Path, scope: Scope, template: str = "chat") -> Problem:
    return problem_of(folder, test=0.2, messages_column="messages", scope=scope, template=template)


def test_methods_of_texts_read_the_turns_of_the_scope(tmp_path: Path) -> None:
    talks(tmp_path / "train.jsonl")
    wanted = {"last-user": "second", "user": "first\nsecond", "system": "Be brief."}
    for scope, text in wanted.items():
        assert set(of_turns(tmp_path, scope).train.texts) == {text}
    answers = of_turns(tmp_path, "response").train
    assert answers.texts == tuple(f"answer {n}" for n in answers.row_ids)
    assert of_turns(tmp_path, "all").train.texts[0].startswith("system: Be brief.\nuser: first")


def test_states_are_those_of_the_scope_and_are_kept_apart(tmp_path: Path) -> None:
    talks(tmp_path / "train.jsonl")
    backend = FakeBackend()
    for scope in ("last-user", "all", "response"):
        problem = of_turns(tmp_path, scope)
        with States(backend, problem, tmp_path / "states", say=lambda _: None) as states:
            lengths = states.source(problem.validation).lengths
            rows = states.tokens(problem.validation)
            every = states.every_token(problem.validation, states.layers).lengths
        assert list(lengths) == [sum(map(len, as_tokens(row).ranges(scope))) for row in rows]
        assert list(every) == [len(row) for row in rows]


def test_rows_without_a_turn_of_the_scope_and_raw_texts_are_refused(tmp_path: Path) -> None:
    talks(tmp_path / "train.jsonl")
    with pytest.raises(DataError, match=r"train, row \d+ of those drawn: no turn of the tool"):
        of_turns(tmp_path, "tool")
    with pytest.raises(ConfigError, match="raw texts have no turns"):
        of_turns(tmp_path, "user", "raw")


def test_numbers_of_a_data_set_without_a_scope_are_what_they_were() -> None:
    """Cells that were measured before there were scopes are not measured again."""
    assert "scope" not in DataSpec(train="a", test=0.1, template="raw").identity
    assert "scope" not in DataSpec(train="a", test=0.1, scope="all").identity
    assert DataSpec(train="a", test=0.1, scope="user").identity["scope"] == "user"


def test_a_data_set_is_read_as_train_reads_it_unless_it_says_otherwise() -> None:
    """The bug: a suite took texts raw and as a whole, where `train` reads the user's turn."""
    told, asked = DataSpec(train="a", test=0.1), FitSettings()
    assert told.template == asked.template
    assert told.scope == default_scope(["a text"], asked.template)
    answers = DataSpec(train="a", test=0.1, prompt_column="p", response_column="r")
    assert answers.scope == "response"
    assert DataSpec(train="a", test=0.1, template="raw").scope == "all"


def test_the_suite_that_ships_reads_rows_as_its_published_numbers_did() -> None:
    read = {name: (one.template, one.scope) for name, one in load_suite("default").data.items()}
    assert read.pop("toxicchat") == ("chat", "all")
    assert set(read.values()) == {("raw", "all")}
