"""Where verbs write: what is refused before any work, what is written, what is left behind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pillion.cli.failures import NUM_SHOWN, all_failed, finish, say_left_out, write_failed
from pillion.cli.output import check_text, number, write_lines
from pillion.cli.places import (
    check_file,
    check_folder,
    check_probe_folder,
    clear_inside,
    work_folder,
)
from pillion.core import FailedRow
from pillion.data import Rows, read_texts
from pillion.errors import ConfigError, DataError, Interrupted, RunError, StorageError

as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


# --- places


def test_a_probe_may_take_the_place_of_a_probe_or_of_nothing(tmp_path: Path) -> None:
    check_probe_folder(tmp_path / "new" / "deeper")
    (tmp_path / "empty").mkdir()
    check_probe_folder(tmp_path / "empty")
    old = tmp_path / "old"
    old.mkdir()
    (old / "card.json").write_text("{}", encoding="utf-8")
    (old / "notes.txt").write_text("mine", encoding="utf-8")
    check_probe_folder(old)


def test_a_folder_of_other_things_is_left_alone_also_behind_a_link(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "one.png").write_bytes(b"")
    (tmp_path / "link").symlink_to(photos)
    for name in ("photos", "link"):
        with pytest.raises(ConfigError, match=f"--out .*{name} is a folder with other files"):
            check_probe_folder(tmp_path / name)


def test_what_is_a_file_or_inside_one_holds_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--cache .*file is a file; give a folder"):
        check_folder(tmp_path / "file", "--cache")
    with pytest.raises(ConfigError, match=r"--cache .* lies inside .*file, which is a file"):
        check_folder(tmp_path / "file" / "in" / "it", "--cache")
    check_folder(tmp_path, "--cache")


def test_a_file_wants_a_folder_that_is_there(tmp_path: Path) -> None:
    check_file(tmp_path / "out.json", "--out")
    (tmp_path / "out.json").write_text("", encoding="utf-8")
    check_file(tmp_path / "out.json", "--out")
    with pytest.raises(ConfigError, match="is a folder; give a file in it"):
        check_file(tmp_path, "--out")
    with pytest.raises(ConfigError, match="is in a folder that is not there; make it first"):
        check_file(tmp_path / "none" / "out.json", "--out")
    with pytest.raises(ConfigError, match="which is a file"):
        check_file(tmp_path / "out.json" / "x.json", "--out")


def test_a_file_that_is_read_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs" / "deep").mkdir(parents=True)
    for name in ("a.csv", "b.csv", "logs/a.csv", "logs/deep/a.csv"):
        (tmp_path / name).write_text("text\nhello\n", encoding="utf-8")
    (tmp_path / "link.csv").symlink_to("a.csv")
    for path, source in (
        ("a.csv", "./a.csv"),
        ("link.csv", "a.csv"),
        ("logs/deep/a.csv", "logs"),
        ("b.csv", "*.csv"),
    ):
        with pytest.raises(ConfigError, match=f"--out {path} is a file that this command reads"):
            check_file(Path(path), "--out", None, source)
    for path, source in (
        ("b.csv", "a.csv"),
        ("new.csv", "*.csv"),
        ("a.csv", "hf:a"),
        ("a.csv", ""),
    ):
        check_file(Path(path), "--out", source)


@as_root
def test_a_folder_of_someone_else_is_refused_before_any_work(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o500)
    with pytest.raises(ConfigError, match="is not yours to write in"):
        check_file(theirs / "out.json", "--out")
    with pytest.raises(ConfigError, match="is not yours to write in"):
        check_folder(theirs / "new", "--cache")


def left_behind(out: Path, error: type[BaseException] | None, *, earlier: bool = False) -> Path:
    """The work folder of a run that wrote into it and then ended in some way."""
    work = out.with_name(f".{out.name}.states.work")
    if earlier:
        work.mkdir()
    try:
        with work_folder(out, ".states") as own:
            assert own == work
            own.mkdir(exist_ok=True)
            (own / "state").write_bytes(b"as sensitive as the texts")
            if error is not None:
                raise error("x")
    except (Interrupted, RunError, ConfigError):
        pass
    return work


def test_only_an_interrupted_run_leaves_its_work(tmp_path: Path) -> None:
    assert not left_behind(tmp_path / "done", None).exists()
    assert not left_behind(tmp_path / "failed", RunError).exists()
    assert (left_behind(tmp_path / "stopped", Interrupted) / "state").exists()


def test_a_failed_run_leaves_what_an_earlier_one_had_begun(tmp_path: Path) -> None:
    assert left_behind(tmp_path / "failed", ConfigError, earlier=True).exists()
    assert not left_behind(tmp_path / "done", None, earlier=True).exists()


def test_the_folder_around_work_goes_where_nothing_else_is_in_it(tmp_path: Path) -> None:
    for beside in (False, True):
        work = tmp_path / f"runs{beside}" / "work"
        work.mkdir(parents=True)
        if beside:
            (work.parent / "result.json").write_text("{}", encoding="utf-8")
        clear_inside(work)
        assert not work.exists() and work.parent.exists() == beside


# --- lines


def test_lines_go_to_a_file_that_is_whole_or_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.jsonl"
    write_lines(["é", "b"], path)
    assert path.read_bytes() == "é\nb\n".encode()
    write_lines(["a", "b"], None)
    assert capsys.readouterr().out == "a\nb\n"


def test_a_run_that_ends_between_two_lines_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old\n", encoding="utf-8")

    def lines() -> object:
        yield "one"
        raise RunError("no more")

    with pytest.raises(RunError, match="no more"):
        write_lines(lines(), path)  # type: ignore[arg-type]
    assert path.read_text(encoding="utf-8") == "old\n" and os.listdir(tmp_path) == ["out.jsonl"]
    with pytest.raises(StorageError, match="choose another --out"):
        write_lines(["a"], tmp_path / "none" / "out.jsonl")


def test_bytes_that_are_no_text_are_named_by_their_place() -> None:
    assert check_text("é", "--text") == "é"
    with pytest.raises(DataError, match="--text is not valid UTF-8 at character 3"):
        check_text("ab\udcff", "--text")


def test_a_number_is_written_or_why_there_is_none() -> None:
    assert number(0.12345, "f1") == "0.123"
    assert number(None, "auroc").startswith("undefined (")
    assert number(None, "anything") == "undefined (the rows do not tell)"


# --- rows that failed


@pytest.fixture
def rows() -> Rows:
    return Rows.of(["a", "b", "c"], ["x", "y", "x"], "rows.csv")


def test_reasons_stand_beside_the_rows_of_their_file_and_no_file_is_left_for_none(
    tmp_path: Path, rows: Rows
) -> None:
    path = tmp_path / "new" / "out.failed.jsonl"
    write_failed([FailedRow(2, "an empty text")], rows, path)
    (line,) = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {
        "row": 2,
        "file": "rows.csv",
        "row_of_file": 2,
        "reason": "an empty text",
    }
    write_failed([], rows, path)
    assert not path.exists(), "reasons of an earlier run would be taken for this one's"


def test_some_failed_rows_end_the_run_unless_they_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text("text\na\nb\nc\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    rows = read_texts("rows.csv")
    failed = [FailedRow(2, "too long; cut it."), FailedRow(3, "empty")]
    said = (
        "2 of 3 rows failed and were left out, first row 2 of rows.csv (too long; cut it); "
        "their reasons are in x.jsonl."
    )
    with pytest.raises(RunError) as caught:
        finish(failed, rows, "their reasons are in x.jsonl", skip=False)
    assert str(caught.value) == said
    finish(failed, rows, "their reasons are in x.jsonl", skip=True)
    assert said in " ".join(capsys.readouterr().err.split())
    finish([], rows, "nowhere", skip=False)
    assert capsys.readouterr().err == ""


def test_a_file_of_which_no_row_is_left_is_refused_by_its_first(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text('text\na\n""\nc\n', encoding="utf-8")
    texts = read_texts(path)
    assert [one.row for one in all_failed(texts, [FailedRow(1, "too long")])] == [1, 2]
    with pytest.raises(DataError, match=r"texts\.csv: Row 1: too long"):
        all_failed(texts, [FailedRow(3, "too long"), FailedRow(1, "too long")])


def test_many_rows_that_cannot_be_used_are_counted_and_shown_in_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("text\n" + '""\n' * (NUM_SHOWN + 4) + "good\n", encoding="utf-8")
    texts = read_texts(path)
    say_left_out(texts, None)
    shown = capsys.readouterr().err
    assert f"{NUM_SHOWN + 4} of {NUM_SHOWN + 5} rows of" in " ".join(shown.split())
    assert shown.count("row ") >= NUM_SHOWN and "... and 4 more" in shown
    say_left_out(texts, tmp_path / "probe", ".validation")
    side_file = tmp_path / "probe.validation.failed.jsonl"
    assert len(side_file.read_text(encoding="utf-8").splitlines()) == NUM_SHOWN + 4
