"""What the documents state as a fact is what the code and the result files say."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import pillion
import pillion_bench.cli  # noqa: F401  # `pillion bench` asks for its verbs when it is run
from pillion.cli.app import app
from pillion.core import Shape
from pillion.probe import AGGREGATORS, Network, build

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/howto/*.md")])
MARKED = re.compile(r"<!--=(.*?)-->(.*?)<!--/-->", re.S)
EXCUSED = re.compile(r"<!--:(.*?)-->(.*?)<!--/-->", re.S)
REASONS = ("wanted", "setting", "published", "once")
"""Why a number stands in no result file: a mark that is aimed at, an option's value, what others
report, or what was measured once and whose file is gone or never was."""

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def prose(path: Path) -> str:
    """A document without its fenced code."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def table(path: Path, header: str) -> list[list[str]]:
    """The rows of the table whose first column has this header, without backticks."""
    after = path.read_text(encoding="utf-8").split(f"\n| {header} |", 1)[1]
    lines = after.split("\n\n", 1)[0].splitlines()[2:]
    return [
        [cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines
    ]


# --- numbers


def number(mark: str, results: Path) -> str:
    """What a marker (`FILE key=value ... FIELD FORMAT`) stands for."""
    name, *selectors, field, form = shlex.split(mark)
    entries: list[dict[str, Any]] = json.loads((results / f"{name}.json").read_text())["results"]
    wanted = [selector.split("=", 1) for selector in selectors]
    found = [e for e in entries if all(str(e.get(key)) == value for key, value in wanted)]
    assert len(found) == 1, f"{mark!r} selects {len(found)} entries; it has to select one"
    place, _, divisor = field.partition("/")
    value: Any = found[0]
    for key in place.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return format(value / float(divisor) if divisor else value, form)


def differences(text: str, results: Path) -> list[str]:
    marks = [(mark.strip(), shown.strip()) for mark, shown in MARKED.findall(text)]
    return [
        f"{mark}: the file says {said}, the document {shown}"
        for mark, shown in marks
        if (said := number(mark, results)) != shown
    ]


@each_document
def test_every_marked_number_is_the_one_in_its_result_file(path: Path) -> None:
    text = prose(path)
    assert len(MARKED.findall(text)) == text.count("<!--="), "a marker is not closed"
    assert differences(text, RESULTS) == []


NUMBERED = [
    ROOT / "docs" / f"{name}.md" for name in ("results", "costs", "real", "probes", "layers")
]
ONCE = "<!-- numbers: once -->"
"""Below a heading of the log: all numbers of the section were measured once."""


def bare(text: str) -> list[str]:
    """Fractions and percentages that stand neither in a marker nor in what other tests check."""
    text = re.sub(r"<!-- accuracy: (.+?) -->.*?<!-- end: \1 -->", "", text, flags=re.S)
    text = re.sub(r"\n\| name \|.*?\n\n", "\n", text, flags=re.S)
    text = re.sub(r"^#+ .*$", "", text, flags=re.M)  # names of models hold such numbers
    text = EXCUSED.sub("", MARKED.sub("", text))
    text = re.sub(r"^    .*$|`[^`]*`|\]\([^)]*\)|arXiv [\d.]+|\d+\.\d+\.\d+", "", text, flags=re.M)
    return re.findall(r"[-+]?\d+\.\d+(?: ?%)?|\d+ ?%", text)


@pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.name)
def test_every_measured_number_of_the_pages_of_results_stands_in_a_marker(path: Path) -> None:
    """Tables had numbers that were copied by hand; a new measurement left them as they were."""
    assert bare(prose(path)) == []


def test_every_number_of_the_log_is_in_a_marker_or_said_to_be_measured_once() -> None:
    sections = prose(ROOT / "docs" / "log.md").split("\n## ")[1:]
    found = {part.splitlines()[0]: bare(part) for part in sections if ONCE not in part}
    assert len(found) > 5
    assert {title: numbers for title, numbers in found.items() if numbers} == {}


@each_document
def test_a_number_that_no_file_holds_says_why(path: Path) -> None:
    text = prose(path)
    excused = EXCUSED.findall(text)
    assert len(excused) == text.count("<!--:"), "a marker is not closed"
    assert [reason for reason, _ in excused if reason.strip() not in REASONS] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("F1 is 0.876 now", ["0.876"]),
        ("a lead of +0.01, 14 % of rows", ["+0.01", "14 %"]),
        ("<!--= one metric=f1 value .3f -->0.876<!--/--> and <!--: wanted -->0.9<!--/-->", []),
        ("`--penalty 0.003`, 280 rows, version 1.2.3, [arXiv 2405.18822](https://x.org/1.5)", []),
        ("<!-- accuracy: mood -->\n0.876\n<!-- end: mood -->", []),
    ],
)
def test_a_bare_number_is_found(text: str, found: list[str]) -> None:
    assert bare(text) == found


@pytest.fixture
def results(tmp_path: Path) -> Path:
    entries = [
        {"metric": "f1", "probe": "gate", "value": 0.8765, "interval": [0.85, 0.9]},
        {"metric": "f1", "probe": "mha", "value": 0.5, "interval": None},
        {"metric": "bytes", "value": 1_024_432},
    ]
    (tmp_path / "one.json").write_text(json.dumps({"results": entries}))
    return tmp_path


@pytest.mark.parametrize(
    ("mark", "shown"),
    [
        ("one metric=f1 probe=gate value .3f", "0.876"),
        ("one metric=f1 probe=gate interval.1 .0%", "90%"),
        ("one metric=bytes value ,", "1,024,432"),
        ("one metric=bytes value/1e6 .1f", "1.0"),
    ],
)
def test_a_marker_stands_for_a_field_in_a_format(results: Path, mark: str, shown: str) -> None:
    assert differences(f"<!--= {mark} -->{shown}<!--/-->", results) == []
    (found,) = differences(f"F1 is <!--= {mark} -->0.123<!--/-->.", results)
    assert f"the file says {shown}, the document 0.123" in found


def test_a_marker_of_several_entries_is_refused(results: Path) -> None:
    with pytest.raises(AssertionError, match="selects 2 entries"):
        differences("<!--= one metric=f1 value .3f -->0.876<!--/-->", results)


# --- tables


def test_the_readme_lists_every_verb() -> None:
    verbs = {row[0] for row in table(ROOT / "README.md", "verb")}
    groups = {group.name for group in app.registered_groups}
    assert verbs == {command.callback.__name__ for command in app.registered_commands} | groups


def facts(name: str) -> list[str]:
    """What the tables say of a probe on all layers of the embedded model, with 6 labels."""
    layers, width = 31, 576
    network = build(name, Shape(layers, width, 6))
    values = network.tap().num_values
    return [
        "yes" if network.streamable else "no",
        f"{network.num_parameters:,}",
        str(values),
        f"{layers * width * values / 1e6:.2f} M",
        kept(network, values),
    ]


def kept(network: Network, values: int) -> str:
    """Size of the fold's state, after as many tokens as make it as large as it gets."""
    fold, size = network.fold_class([network]), list[int]()
    for tokens in (16, 17):
        every = torch.ones(1, tokens, dtype=torch.bool)
        state = fold.summarise(torch.zeros(network.shape.num_layers, 1, tokens, values), every)
        size.append(sum(t.numel() * t.element_size() for t in state.values()))
    first, second = size
    grows = second - first
    return f"{grows / 1000:,.1f} kB a token" if grows else f"{first / 1000:,.1f} kB"


@pytest.mark.parametrize("name", AGGREGATORS)
def test_the_page_of_probes_says_what_each_probe_is(name: str) -> None:
    rows = {row[0]: row[1:] for row in table(ROOT / "docs" / "probes.md", "name")}
    assert rows.keys() == AGGREGATORS.keys()
    assert rows[name] == facts(name)


def test_the_readme_says_the_same_of_a_few_probes() -> None:
    rows = {row[0]: row[1:] for row in table(ROOT / "README.md", "name")}
    assert len(rows) > 4
    assert all(row == facts(name)[: len(row)] for name, row in rows.items())


def test_the_structure_names_every_part_once() -> None:
    parts = [row[0] for row in table(ROOT / "docs" / "structure.md", "part")]
    package = Path(str(pillion.__file__)).parent
    found = {path.stem for path in package.iterdir() if not path.name.startswith(("_", "py.typed"))}
    found |= {path.name for path in (ROOT / "bench" / "src").iterdir() if path.suffix == ""}
    assert sorted(parts) == sorted(found)


# --- links


def anchors(path: Path) -> set[str]:
    """What headings are called in links, as GitHub makes it of their words."""
    titles = re.findall(r"^#+ (.+)$", prose(path), re.M)
    plain = [re.sub(r"<!--.*?-->|\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in plain}


def broken_links(path: Path) -> list[str]:
    """Links of a document to files, and to headings in documents, that are not there."""
    links = re.findall(r"\]\(([^)\s]+)\)", prose(path))
    broken: list[str] = []
    for link in (link for link in links if "://" not in link and not link.startswith("mailto:")):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in anchors(target)
        ):
            broken.append(link)
    return broken


@each_document
def test_every_file_and_heading_that_a_document_links_to_is_there(path: Path) -> None:
    assert broken_links(path) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Keys, and *limits*\n\n[a](#keys-and-limits) [b](#keys) [c](gone.md#x)\n")
    assert broken_links(page) == ["#keys", "gone.md#x"]


# --- snippets


def blocks(path: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", path.read_text("utf-8"), re.M | re.S)


def unknown_imports(snippet: str) -> list[str]:
    """Names that a piece of Python takes from pillion, and that are not there."""
    found: list[str] = []
    for node in ast.walk(ast.parse(snippet)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pillion"):
            module = importlib.import_module(node.module or "")
            missing = [one.name for one in node.names if not hasattr(module, one.name)]
            found += [f"{node.module}.{name}" for name in missing]
    return found


@each_document
def test_every_piece_of_python_parses_and_imports_what_is_there(path: Path) -> None:
    assert [name for piece in blocks(path, "python") for name in unknown_imports(piece)] == []


def test_an_import_that_is_gone_is_found() -> None:
    assert unknown_imports("from pillion import Probe, Porbe") == ["pillion.Porbe"]
    with pytest.raises(SyntaxError):
        unknown_imports("for x in:")


COMMAND = re.compile(r"^(?:    |\$ )(?:\w+=\S+ )?pillion (.+?)(?:  +.*| *#.*)?$", re.M)
"""A command line in a document, in a block of any kind; what is said behind it is cut off."""


def unknown_words(line: str) -> list[str]:
    """Verbs and options of a command line that the program does not have."""
    group: Any = typer.main.get_command(app)
    words = shlex.split(line.replace("...", "X"))
    while words and not words[0].startswith("-") and hasattr(group, "commands"):
        verb = words.pop(0)
        if verb not in group.commands:
            return [verb]
        group = group.commands[verb]
    if group.context_settings.get("ignore_unknown_options"):  # options of a program that it starts
        return []
    known = {name for one in group.params for name in (*one.opts, *one.secondary_opts)}
    given = [word.split("=")[0] for word in words if word.startswith("--")]
    return [word for word in given if word not in known | {"--debug", "--quiet", "--help"}]


@each_document
def test_every_command_line_of_pillion_has_verbs_and_options_that_are_there(path: Path) -> None:
    lines = COMMAND.findall(path.read_text("utf-8"))
    assert {line: bad for line in lines if (bad := unknown_words(line))} == {}


def test_an_option_that_is_gone_is_found() -> None:
    assert unknown_words("train --data x.csv --uot y") == ["--uot"]
    assert unknown_words("tain --data x.csv") == ["tain"]
    assert unknown_words("bench accuracy --data x.csv --page=y.html") == []


def test_every_document_is_in_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    links = re.findall(r"\]\(([^)#:]+)\)", index.read_text(encoding="utf-8"))
    assert {(index.parent / link).resolve() for link in links} == {*DOCUMENTS} - {index}
