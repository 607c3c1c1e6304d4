"""Answers of a request for several, put together in vLLM's frontend; no vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pillion.riding.latest_logits import KEY, LatestLogits
from pillion.riding.report import Readout
from pillion.riding.verdicts import read_of
from pillion.vllm.siblings import gather, watch


def output_of(latest: LatestLogits, request: str) -> Any:
    return SimpleNamespace(request_id=request, kv_transfer_params=latest.params(request))


class Frontend:
    """As much of vLLM's output processor as matters: who lives, and what came."""

    def __init__(self, parents: dict[str, Any]) -> None:
        self.request_states = {
            name: SimpleNamespace(parent_req=parent, request_index=int(name[0]))
            for name, parent in parents.items()
        }
        self.given: list[Any] = []

    def process_outputs(self, outputs: list[Any], stamp: float) -> float:
        self.given = outputs
        return stamp


def numbers(value: float) -> dict[str, list[float]]:
    return {"gate": [value]}


def test_what_the_engine_sends_of_an_answer_does_not_grow_with_its_siblings_or_its_length() -> None:
    """The bug: each of n outputs carried 64 states of all n answers, 5.7 MB a step at 32."""
    latest = LatestLogits()
    for i in range(2000):  # more families than were once kept
        latest.enter(f"{i % 2}_p{i // 2}")
    for count in range(1, 100):
        latest.add([(Readout("0_p0", count, False), numbers(float(count)))])
    found = latest.params("0_p0")[KEY]
    assert set(found) == {"prompt", "response", "read", "seconds"}
    assert found["response"] == numbers(99) and found["read"] == 99


def test_every_output_knows_the_latest_of_all_answers_and_where_each_has_ended() -> None:
    watch(Frontend)
    watch(Frontend)  # a second time changes nothing
    parent, latest = SimpleNamespace(), LatestLogits()
    frontend: Any = Frontend({"0_p": parent, "1_p": parent, "2_other": None})
    for name in frontend.request_states:
        latest.enter(name)

    def step(count: int) -> list[Any]:
        rows = [(Readout(f"{i}_p", count, False), numbers(i + count / 100)) for i in (0, 1)]
        latest.add(rows)
        outputs = [output_of(latest, name) for name in ("0_p", "1_p", "2_other")]
        assert frontend.process_outputs(outputs, 1.5) == 1.5 and frontend.given is outputs
        return [output.kv_transfer_params[KEY] for output in outputs]

    step(1)
    # A stop string ends the first here, and the engine goes on with it for a few tokens.
    del frontend.request_states["0_p"]
    for count in range(2, 200):
        gone, last, alone = step(count)
    assert last["choices"] == {
        "0": {"response": numbers(0.01), "read": 1},
        "1": {"response": numbers(2.99), "read": 199},
    }
    assert "choices" not in gone and "choices" not in alone
    assert read_of(last, 0)["read"] == 1 and read_of(last)["read"] == 199
    assert read_of(last, 7) == {"response": {}, "read": 0} and read_of(alone, 1) is alone


def test_outputs_without_verdicts_are_left_alone() -> None:
    state = SimpleNamespace(parent_req=SimpleNamespace(), request_index=0)
    for params in (None, {}, {"other": 1}):
        output = SimpleNamespace(kv_transfer_params=params)
        gather(output, state)
        assert output.kv_transfer_params == params and not vars(state.parent_req)
