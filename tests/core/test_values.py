"""What frozen values promise: batches, lines, verdicts, and why there is no verdict."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from pillion import errors
from pillion.core import Segment, Tokens, Turn, Verdict
from pillion.core.absence import UNTOLD, absences, absent
from pillion.core.arithmetic import fast_dtype
from pillion.core.batching import batches_by_length
from pillion.core.classification import classification_json
from pillion.core.conversation import (
    as_conversation,
    as_text,
    in_reasoning,
    last_role,
    role_of,
    scope_of_ends,
)
from pillion.core.lines import as_line, failed_line, json_line
from pillion.core.verdict import verdict_json, verdicts_json
from pillion.errors import DataError, of_kind, unknown_name

SURE = Verdict("safe", "yes", {"no": 0.1234567, "yes": 0.8765433}, 0.5, ("yes",))
NONE = Verdict("tags", "", {"a": 0.2, "b": 0.3}, None, ())


# --- batches


def test_every_row_is_in_one_batch_that_its_padding_fits() -> None:
    lengths = [3, 9, 1, 9, 4, 0, 7, 30]
    batches = batches_by_length(lengths, 20)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    padded = [max(lengths[row] for row in batch) * len(batch) for batch in batches]
    assert batches[0] == [7] and padded[0] == 30, "a longer row is a batch of its own"
    assert all(size <= 20 for size in padded[1:])


def test_the_longest_rows_run_first_and_equal_ones_in_their_order() -> None:
    batches = batches_by_length([2, 5, 2, 5], 10)
    assert batches == [[1, 3], [0, 2]]


def test_a_batch_has_no_more_rows_than_asked_for_and_nothing_makes_no_batch() -> None:
    assert [len(batch) for batch in batches_by_length([1] * 7, 100, max_rows=3)] == [3, 3, 1]
    assert batches_by_length([], 100) == []


# --- verdicts as JSON


def test_a_verdict_rounds_its_probabilities_and_leaves_out_what_the_probe_has_not() -> None:
    assert verdict_json(SURE) == {
        "label": "yes",
        "probs": {"no": 0.123457, "yes": 0.876543},
        "threshold": 0.5,
    }
    assert verdict_json(NONE, multilabel=True)["label"] == []


def test_a_probe_that_may_abstain_says_its_decision_and_one_with_sets_its_set() -> None:
    doubtful = Verdict("safe", "yes", {"no": 0.5, "yes": 0.5}, 0.5, ("yes",), True, ("no", "yes"))
    assert verdict_json(doubtful)["decision"] == "abstain"
    assert verdict_json(doubtful)["prediction_set"] == ["no", "yes"]
    decided = Verdict("tags", "a,b", {"a": 0.9, "b": 0.8}, None, ("a", "b"), False, ())
    assert verdict_json(decided, multilabel=True)["decision"] == ["a", "b"]
    assert verdict_json(decided)["prediction_set"] == []


def test_a_label_named_abstain_is_told_from_abstaining() -> None:
    named = Verdict("p", "abstain", {"abstain": 1.0}, None, ("abstain",), False)
    assert named.decision == "abstain" and not named.abstained


def test_a_probe_without_a_verdict_has_nulls_and_its_reason() -> None:
    said = verdicts_json({"safe": SURE, "tags": NONE}, {"tags"}, {"tool": "no turn"})
    assert said["tags"]["label"] == [] and said["safe"]["label"] == "yes"
    assert said["tool"] == {"label": None, "probs": None, "threshold": None, "reason": "no turn"}


def test_a_line_is_the_first_probes_verdict_and_holds_all_where_there_are_several() -> None:
    assert as_line({"safe": SURE}, ()) == verdict_json(SURE)
    both = as_line({"safe": SURE, "tags": NONE}, {"tags"})
    assert both["label"] == "yes" and list(both["verdicts"]) == ["safe", "tags"]
    assert failed_line("an empty text") == {
        "label": None,
        "probs": None,
        "threshold": None,
        "error": "an empty text",
    }


def test_no_character_of_a_text_ends_a_line_of_json_and_nan_is_refused() -> None:
    text = "a\nb\x85c\u2028d\u2029e\rf"
    line = json_line({"text": text})
    assert len(line.splitlines()) == 1 and json.loads(line)["text"] == text
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_line(float("nan"))


def test_the_shape_of_vllms_classify_says_the_likeliest_of_several_labels() -> None:
    several = Verdict("tags", "a,b", {"a": 0.7, "b": 0.9, "c": 0.1}, None, ("a", "b"))
    body = classification_json("7", "tags", [several, NONE], 12)
    assert body["id"] == "classify-7" and body["model"] == "tags"
    assert [one["label"] for one in body["data"]] == ["b", None]
    assert [one["index"] for one in body["data"]] == [0, 1]
    assert body["data"][0]["probs"] == [0.7, 0.9, 0.1] and body["data"][0]["num_classes"] == 3
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] == 12


# --- turns and what scopes read


def talk() -> Tokens:
    """A user's turn of two tokens, an answer that thinks first, and an empty user's turn."""
    return Tokens(
        range(10),
        [
            Segment(1, 3, "user", 0),
            Segment(4, 6, "assistant", 1, "reasoning"),
            Segment(6, 8, "assistant", 1),
            Segment(9, 9, "user", 2),
        ],
    )


def test_a_scope_reads_words_alone_and_an_empty_last_turn_has_none() -> None:
    tokens = talk()
    assert tokens.ranges("user") == (range(1, 3),)
    assert tokens.ranges("last-user") == (), "the last turn of the user is the empty one"
    assert tokens.ranges("response") == (range(6, 8),), "reasoning is no word of the answer"
    assert tokens.ranges("all") == (range(10),) and Tokens().ranges("all") == ()


@pytest.mark.parametrize(
    ("tokens", "scope", "why"),
    [
        (talk(), "user", None),
        (Tokens(), "all", "there are no tokens to read"),
        (Tokens([1, 2]), "last-user", "a text without turns has no words of the scope 'last-user'"),
        (talk(), "last-user", "no turn of the user has words"),
        (talk(), "tool", "no turn of the tool has words"),
        (Tokens([1], [Segment(0, 1, "user", 0)]), "response", "no turn of the assistant"),
    ],
)
def test_why_a_probe_has_nothing_to_read_is_a_sentence(
    tokens: Tokens, scope: Any, why: str | None
) -> None:
    found = absent(tokens, scope)
    assert (found is None) if why is None else (found is not None and found.startswith(why))


def test_only_probes_that_were_asked_and_gave_nothing_have_a_reason() -> None:
    scopes: dict[str, Any] = {"said": "user", "tool": "tool", "answer": "response"}
    found = absences(scopes, {"said"}, talk())
    assert list(found) == ["tool"], "a probe of answers says nothing of a prompt"
    assert found["tool"].startswith("no turn of the tool")
    assert UNTOLD in absences(scopes, {"said"}, None)["tool"]
    assert absences({"said": "user"}, (), talk()) == {"said": UNTOLD}
    assert list(absences(scopes, {"said"}, talk(), {"response"})) == ["answer"]


def test_whose_words_are_read_is_told_by_who_ends_every_row() -> None:
    assert scope_of_ends({"assistant"}, "chat") == "response"
    assert scope_of_ends({"assistant", "user"}, "chat") == "last-user"
    assert scope_of_ends({"assistant"}, "raw") == "all"
    assert (role_of("last-user"), role_of("response"), role_of("all")) == (
        "user",
        "assistant",
        "all",
    )
    assert last_role("a text") == "user" and last_role((Turn("assistant", "x"),)) == "assistant"


def test_reasoning_goes_on_until_its_mark_ends_it() -> None:
    begin, end = 7, 8
    assert in_reasoning([1, begin, 2], (begin, end))
    assert not in_reasoning([1, begin, 2, end, 3], (begin, end))
    assert in_reasoning([begin, end, begin], (begin, end))
    assert not in_reasoning([1, 2], (begin, end)) and not in_reasoning([begin], None)


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([], "the conversation has no turns; give it one or more"),
        (b"x", "a conversation is a list of messages"),
        ({"role": "user"}, "a conversation is a list of messages.*got a mapping"),
        (["hello"], "turn 1 is a string; write it as role and content"),
        ([{"content": "x"}], "turn 1 has no role; give it one of: "),
        ([{"role": "boss", "content": "x"}], "turn 1 has the unknown role 'boss'; known: "),
        ([{"role": ["user"], "content": "x"}], r"turn 1 has the unknown role .*user"),
        ([{"role": "user", "content": " "}], r"turn 1 \(user\) is empty; give it some words"),
        ([{"role": "user"}], r"turn 1 \(user\) is empty"),
        ([{"role": "user", "content": 5}], "turn 1 has a content of a int; write it as a string"),
        ([{"role": "user", "content": [{"image": 1}]}], "content of a list.*parts of type text"),
    ],
)
def test_what_is_no_conversation_is_refused_by_its_turn(messages: Any, why: str) -> None:
    with pytest.raises(DataError, match=why):
        as_conversation(messages)


def test_messages_of_every_spelling_become_the_same_turns() -> None:
    wanted = (Turn("user", "hello there"), Turn("assistant", "hi"))
    parts = [{"type": "text", "text": "hello "}, {"type": "text", "text": "there"}]
    for messages in (
        [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "hi"}],
        [{"from": "human", "value": "hello there"}, {"from": "gpt", "value": "hi"}],
        [{"role": "user", "content": parts}, {"role": "assistant", "content": "hi", "name": None}],
        wanted,
    ):
        assert as_text(messages) == wanted
    assert as_text("a text") == "a text"


def test_an_answer_that_calls_tools_needs_no_words() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    (turn,) = as_conversation([{"role": "assistant", "content": None, "tool_calls": [call]}])
    assert turn.content == "" and turn.more["tool_calls"] == [call]
    with pytest.raises(DataError, match=r"turn 1 \(assistant\) is empty"):
        as_conversation([{"role": "assistant", "content": None, "tool_calls": []}])


# --- arithmetic, errors


def test_a_processor_without_an_arithmetic_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    for has, wanted in (({"avx512_bf16": True}, torch.bfloat16), ({}, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has)
        assert fast_dtype(torch.bfloat16, cpu) == wanted
        assert fast_dtype(torch.float16, cpu) == torch.float32
        assert fast_dtype(torch.float32, cpu) == torch.float32
        assert fast_dtype(torch.bfloat16, torch.device("cuda")) == torch.bfloat16


def test_an_unknown_name_tells_the_known_ones_and_the_nearest() -> None:
    assert str(unknown_name("probe", "gat", ["mha", "gate"])) == (
        "Unknown probe 'gat'; known: gate, mha. Did you mean 'gate'?"
    )
    assert str(unknown_name("probe", "xyz", [])) == "Unknown probe 'xyz'; known: none."


def test_an_error_of_another_process_is_of_its_own_kind_again() -> None:
    names = [name for name, one in vars(errors).items() if isinstance(one, type)]
    kinds = [name for name in names if issubclass(getattr(errors, name), errors.PillionError)]
    assert len(kinds) > 10
    assert all(of_kind(name) is getattr(errors, name) for name in kinds)


def test_what_the_caller_gave_ends_with_two_and_what_failed_with_one() -> None:
    assert errors.MismatchError.exit_code == errors.BadRows.exit_code == 2
    assert errors.StorageError.exit_code == errors.Interrupted.exit_code == 1
