"""Calls in the text of an answer: read in every known form, wherever the pieces are cut."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from chat_templates import TEMPLATES
from pillion.serve.tool_calls import FORMS, CallReader, form_of

HERMES, MISTRAL, LLAMA = FORMS
NAMES = ("add", "say")
ADD = '{"name": "add", "arguments": {"a": 1, "b": [2.5, null]}}'
SAY = '{"name": "say", "arguments": {"words": "</tool_call> {\\"x\\": [TOOL_CALLS] ü"}}'
PARAMETERS = ADD.replace("arguments", "parameters")


def read(form: Any, *pieces: str, most: int | None = None) -> tuple[str, list[tuple[str, Any]]]:
    """The text of an answer, and the names and arguments of its calls."""
    reader, text, calls = CallReader(form, NAMES, most), "", []
    for said, found in [*map(reader.add, pieces), reader.end()]:
        text += said
        calls += found
    assert (
        [call.number for call in calls] == list(range(len(calls))) == list(range(reader.num_calls))
    )
    assert len({call.id for call in calls}) == len(calls)
    return text, [(call.name, json.loads(call.arguments)) for call in calls]


ADDED = ("add", {"a": 1, "b": [2.5, None]})
SAID = ("say", {"words": '</tool_call> {"x": [TOOL_CALLS] ü'})


def hermes(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


ANSWERS: list[tuple[Any, str, str, list[Any]]] = [
    (HERMES, hermes(ADD), "", [ADDED]),
    (HERMES, f"Let me see.\n\n{hermes(ADD, SAY)}\n", "Let me see.", [ADDED, SAID]),
    (HERMES, f"{hermes(ADD)} and {hermes(SAY)} so", " and so", [ADDED, SAID]),
    (HERMES, f"<tool_call>{ADD}", "", [ADDED]),  # its end was not written
    (HERMES, "no call, a <tool, 1 < 2 ", "no call, a <tool, 1 < 2 ", []),
    (HERMES, f"<tool_call>{ADD[:-9]}", f"<tool_call>{ADD[:-9]}", []),
    (
        HERMES,
        f"x <tool_call>\nno\n</tool_call>{hermes(ADD)}",
        "x <tool_call>\nno\n</tool_call>",
        [ADDED],
    ),
    (
        HERMES,
        hermes('{"name": "rm", "arguments": {}}'),
        hermes('{"name": "rm", "arguments": {}}'),
        [],
    ),
    (
        HERMES,
        hermes('{"name": "add", "arguments": "x"}'),
        hermes('{"name": "add", "arguments": "x"}'),
        [],
    ),
    (
        HERMES,
        hermes('{"name": ["add"], "arguments": {}}'),
        hermes('{"name": ["add"], "arguments": {}}'),
        [],
    ),
    (
        HERMES,
        hermes('{"name": "add", "arguments": {"a": 1e999}}'),
        hermes('{"name": "add", "arguments": {"a": 1e999}}'),
        [],
    ),
    (HERMES, "", "", []),
    (MISTRAL, f"[TOOL_CALLS] [{ADD}, {SAY}]", "", [ADDED, SAID]),
    (MISTRAL, f"Well. [TOOL_CALLS] [{ADD}]", "Well.", [ADDED]),
    (MISTRAL, f"[TOOL_CALLS] [{ADD}", f"[TOOL_CALLS] [{ADD}", []),
    (MISTRAL, "[TOOL_CALLS] [] ", "[TOOL_CALLS] [] ", []),
    (LLAMA, PARAMETERS, "", [ADDED]),
    (LLAMA, f"\n {PARAMETERS}; {ADD} ", "", [ADDED, ADDED]),
    (LLAMA, f"<|python_tag|>{PARAMETERS}", "", [ADDED]),
    (LLAMA, f"As in {PARAMETERS}", f"As in {PARAMETERS}", []),  # told, not called
    (LLAMA, f" {PARAMETERS} is a call", f" {PARAMETERS} is a call", []),
    (LLAMA, ' {"a": {"b": 2}}\n', ' {"a": {"b": 2}}\n', []),
    (LLAMA, f"<|python_tag|>print(1) {PARAMETERS}", f"<|python_tag|>print(1) {PARAMETERS}", []),
]


@pytest.mark.parametrize(("form", "answer", "text", "calls"), ANSWERS)
def test_calls_are_read_and_the_rest_is_text(
    form: Any, answer: str, text: str, calls: list[Any]
) -> None:
    assert read(form, answer) == (text, calls)


PIECES = st.lists(
    st.sampled_from(
        [
            *(
                "<tool_call>",
                "</tool_call>",
                "[TOOL_CALLS]",
                "<|python_tag|>",
                " ",
                "\n",
                "; ",
                "[",
            ),
            *("]", "{", "}", "a<", ADD, SAY, PARAMETERS, hermes(ADD)),
        ]
    ),
    max_size=7,
).map("".join)


@given(answer=PIECES, cuts=st.lists(st.integers(0, 400), max_size=8), which=st.integers(0, 2))
@examples(max_examples=300, deadline=None)
def test_where_pieces_are_cut_changes_nothing(answer: str, cuts: list[int], which: int) -> None:
    places = sorted({0, len(answer), *(min(cut, len(answer)) for cut in cuts)})
    pieces = [answer[a:b] for a, b in pairwise(places)]
    whole = read(FORMS[which], answer)
    assert read(FORMS[which], *pieces) == read(FORMS[which], *answer) == whole
    if not whole[1]:
        assert whole[0] == answer  # nothing is lost


def test_no_more_calls_than_were_asked_for() -> None:
    assert read(HERMES, f"{hermes(ADD, SAY)} more", most=1) == ("", [ADDED])
    assert read(MISTRAL, f"[TOOL_CALLS][{SAY}, {ADD}]", most=1) == ("", [SAID])


def test_text_goes_out_as_soon_as_it_can_be_no_mark() -> None:
    reader = CallReader(HERMES, NAMES)
    assert [reader.add(piece)[0] for piece in ("a <", "b <tool", "_", "c ", "d")] == [
        "a",
        " <b",
        "",
        " <tool_c",
        " d",
    ]


def test_an_answer_that_is_cut_off_has_no_half_call() -> None:
    reader = CallReader(HERMES, NAMES)
    assert reader.add(f"a {hermes(ADD)[:-3]}") == ("a", ()) and reader.cut() == ""
    reader = CallReader(HERMES, NAMES)
    assert reader.add("a <to")[0] + reader.cut() == "a <to"


def test_the_form_is_told_by_the_chat_template() -> None:
    found = {name: form_of(template) for name, template in TEMPLATES.items()}
    known = {name: form.name for name, form in found.items() if form}
    assert known == {
        "hermes-tools": "Hermes",
        "llama3-tools": "Llama 3",
        "mistral-tools": "Mistral",
    }
    # Others use the same mark for another form.
    assert form_of("{{ tools }}<tool_call><function=name>") is None
    assert form_of("{{ tools }}[TOOL_CALLS]name[ARGS]") is None
    assert form_of("<tool_call>") is None
