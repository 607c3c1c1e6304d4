"""How numbers, tables and charts are written, apart from any page."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pillion.report.charts import SERIES, Line, bar_chart, line_chart
from pillion.report.layers_section import layers_section
from pillion.report.numbers import UNDEFINED, compact, number, percent, spread
from pillion.report.tables import MAX_ROWS, facts, table_section


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (None, 3, UNDEFINED),
        (0.0, 3, "0.000"),
        (0.0004, 3, "0.0004"),
        (0.99968, 3, "0.9997"),
        (0.9996, 3, "0.9996"),
        (1e-9, 3, "0.000000"),
        (0.6, 0, "1"),
        (-0.0001, 3, "0.000"),
        (-0.0006, 3, "-0.001"),
        (0.12349, 3, "0.123"),
        (2.5, 0, "2"),
        (1234567, 3, "1,234,567"),
        (True, 3, "True"),
        ("gate", 3, "gate"),
    ],
)
def test_a_number_is_written_with_its_digits_and_what_is_undefined_is_said(
    value: Any, digits: int, shown: str
) -> None:
    assert number(value, digits) == shown


def test_a_share_and_an_interval_are_never_minus_zero_nor_zero_for_nothing() -> None:
    assert percent(None) == UNDEFINED and percent(0.1234) == "12.3%" and percent(1.0, 0) == "100%"
    assert percent(-0.0001) == "0.0%", "it was -0.0%"
    assert (percent(0.0004), percent(0.9996), percent(0.9996, 0)) == ("0.04%", "99.96%", "100%")
    assert spread(None) == "" and spread([-0.0001, 0.25]) == "0.000 to 0.250"
    assert spread((0.1, 0.2), 1) == "0.1 to 0.2"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, UNDEFINED),
        (0, "0"),
        (0.5, "0.5"),
        (999, "999"),
        (999.7, "1 k"),
        (1000, "1 k"),
        (1500, "1.5 k"),
        (12345, "12.3 k"),
        (645_312, "645 k"),
        (999_999, "1 M"),
        (-2_000_000, "-2 M"),
        (3.25e12, "3.25 T"),
        (2e15, "2000 T"),
    ],
)
def test_a_size_has_three_digits_and_no_power_of_ten(value: float | None, shown: str) -> None:
    """999,999 was written as 1e+03 k, and 2e15 as 2e+03 T."""
    assert compact(value) == shown


def test_a_size_may_have_a_unit() -> None:
    assert compact(2048, "B") == "2.05 kB" and compact(12, "B") == "12 B"


# --- tables


def content(results: list[Any], **more: Any) -> dict[str, Any]:
    return {"name": "n", "results": results, **more}


def test_a_table_has_the_columns_of_all_entries_and_gaps_where_one_lacks_them() -> None:
    section = table_section(content([{"a": 1, "b": None}, "no entry", {"c": "x", "a": 2}]))
    assert section["columns"] == ["a", "b", "c"]
    assert section["rows"] == [[1, None, ""], [2, "", "x"]]
    assert section["left_out"] == 0


def test_nested_values_have_their_path_and_long_lists_are_left_out() -> None:
    entry = {
        "at": {"fpr": 0.01, "deeper": {"x": 1}, "ends": [1, 2.5]},
        "interval": [0.123456, 0.5],
        "bytes": [1234567, 20_000.4],
        "curve": [1, 2, 3, 4, 5],
        "names": ["a", "b"],
    }
    section = table_section(content([entry]))
    assert section["columns"] == ["at.fpr", "at.ends", "interval", "bytes"]
    assert section["rows"] == [[0.01, "1 to 2.5", "0.1235 to 0.5", "1,234,567 to 20,000"]]


def test_rows_beyond_a_page_are_counted() -> None:
    section = table_section(content([{"i": i} for i in range(MAX_ROWS + 7)]))
    assert len(section["rows"]) == MAX_ROWS and section["left_out"] == 7


def test_the_facts_of_a_file_are_those_that_it_has() -> None:
    assert facts({"results": []}) == []
    told = facts(
        {
            "name": "accuracy",
            "date": "2026-01-01",
            "seed": 0,
            "machine": {"cores": 2, "cpu": "x"},
            "versions": "unknown",
            "data": [{"path": "a.csv", "sha256": "f" * 64}, "no entry"],
            "commit": "c",
        }
    )
    assert told == [
        ("name", "accuracy"),
        ("date", "2026-01-01"),
        ("seed", "0"),
        ("machine", "cores 2, cpu x"),
        ("data", f"path a.csv, sha256 {'f' * 12}"),
    ]


# --- charts


def test_a_chart_has_the_pages_colours_and_no_style_or_name_of_its_own() -> None:
    lines = [Line([(0.0, 0.1), (1.0, 0.9)]), Line([(0.0, 0.0), (1.0, 1.0)], None)]
    svg = line_chart(lines, "threshold", "share", diagonal=True)
    assert svg.startswith("<svg") and "<style" not in svg and "<g id=" not in svg
    assert "var(--series-1)" in svg and "var(--quiet)" in svg and "var(--ink)" in svg
    assert not any(colour in svg for colour in SERIES)
    assert "threshold" in svg and "font-family: inherit" in svg
    assert svg == line_chart(lines, "threshold", "share", diagonal=True)


def test_marks_bands_and_dots_are_drawn_and_series_begin_again_after_the_last() -> None:
    points = [(0.0, 0.2), (1.0, 0.4)]

    def drawn(line: Line, **how: Any) -> int:
        return line_chart([line], "x", "y", **how).count("<path")

    plain = drawn(Line(points))
    assert drawn(Line(points), marks=[0.3, 0.6]) == plain + 2
    assert drawn(Line(points, band=[(0.1, 0.3), (0.2, 0.5)])) > plain
    dotted = line_chart([Line(points, dots=True, band=[(0.1, 0.3)] * 2)], "x", "y")
    assert dotted.count("<use") > line_chart([Line(points)], "x", "y").count("<use")
    assert "var(--series-2)" in line_chart([Line(points, len(SERIES) + 1)], "x", "y")


def test_ticks_of_a_logarithmic_axis_are_the_points_where_there_is_room() -> None:
    points = [(x, 0.5) for x in (2.0, 2.5, 16.0, 1024.0)]
    svg = line_chart([Line(points)], "rows", "score", log_x=True, unit=False)
    shown = re.findall(r">([\d,]+)</text>", svg)
    assert "16" in shown and "1,024" in shown, "2 and 2.5 are too close for both"
    assert shown.count("2") <= 1


def test_bars_stand_for_groups_and_no_group_is_an_empty_chart() -> None:
    two = bar_chart([[(0.1, 3.0), (0.3, 4.0)], [(0.1, 1.0)]], "probability", "rows")
    assert "var(--series-1)" in two and "var(--series-2)" in two
    assert bar_chart([], "probability", "rows").startswith("<svg")


# --- layers


def study(silhouette: float | None) -> dict[str, Any]:
    rows = [
        {"layer": i, "score": 0.5 + i / 10, "silhouette": silhouette, "weight": None}
        for i in range(3)
    ]
    return content(
        rows,
        data=[{"path": "a.csv"}],
        settings={"score": "accuracy"},
        recommended={"layers": [1, 2]},
        sets=[],
        single={},
    )


def test_layers_have_two_charts_and_a_note_where_a_curve_is_undefined() -> None:
    section = layers_section(study(0.1))
    assert section["title"] == "Layers for a.csv" and not section["has_weights"]
    assert [chart["title"] for chart in section["charts"]] == ["Score", "Silhouette"]
    assert all("svg" in chart for chart in section["charts"])
    undefined = layers_section(study(None))["charts"][1]
    assert "svg" not in undefined and undefined["note"].startswith("Undefined")
