"""`vllm serve` with one option file: verdicts in its answers, exact under load."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest
from riding import KEY, MARK, ProbedModel, random_prompts
from serving import serving

pytestmark = pytest.mark.vllm
CLIENTS = 16


@pytest.fixture(scope="module")
def address(tiny: ProbedModel, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with serving(tiny, tmp_path_factory.mktemp("serve")) as address:
        yield address


def as_output(prompt: list[int], body: dict[str, Any]) -> Any:
    """A body with logits as `ProbedModel.error` takes it."""
    answers = [SimpleNamespace(token_ids=choice["token_ids"]) for choice in body["choices"]]
    told = body["verdicts"]
    params = {KEY: {**told["logits"], "read": told["response_tokens"]}}
    return SimpleNamespace(kv_transfer_params=params, prompt_token_ids=prompt, outputs=answers)


def test_sixteen_clients_get_exact_verdicts_also_of_cached_prefixes(
    tiny: ProbedModel, address: str
) -> None:
    import httpx

    lengths = [(96 * (i % 3 > 0), 3 + 7 * i % 90) for i in range(3 * CLIENTS)]
    prompts = [p["prompt_token_ids"] for p in random_prompts(lengths, seed=9)]

    async def client(number: int, session: httpx.AsyncClient) -> list[Any]:
        outputs: list[Any] = []
        for prompt in prompts[number::CLIENTS]:
            request = {
                "model": "tiny",
                "prompt": prompt,
                "max_tokens": 9 + number,
                "temperature": 0,
                "ignore_eos": True,
                "return_token_ids": True,
                "pillion": {"logits": True},
            }
            body = (await session.post("/v1/completions", json=request)).raise_for_status().json()
            outputs.append((as_output(prompt, body), body))
        return outputs

    async def all_clients() -> list[Any]:
        async with httpx.AsyncClient(base_url=address, timeout=300) as session:
            done = await asyncio.gather(*(client(i, session) for i in range(CLIENTS)))
        return [pair for pairs in done for pair in pairs]

    pairs = asyncio.run(all_clients())
    assert len(pairs) == len(prompts)
    assert max(tiny.error(output) for output, _ in pairs) <= MARK
    cached = [body["usage"]["prompt_tokens_details"]["cached_tokens"] for _, body in pairs]
    assert sum(tokens > 0 for tokens in cached) > CLIENTS
    for output, body in pairs:
        check_verdicts(tiny, body["verdicts"], output)


def check_verdicts(tiny: ProbedModel, verdicts: dict[str, Any], output: Any) -> None:
    """The verdicts of a body are those of its logits, by the probes' cards."""
    found = output.kv_transfer_params[KEY]
    assert verdicts["response_tokens"] == found["read"] == len(output.outputs[0].token_ids) - 1
    probs = verdicts["prompt"]["binary"]["probs"]["yes"]
    assert probs == pytest.approx(1 / (1 + 2.718281828 ** -found["prompt"]["binary"][0]), abs=1e-5)
    for part in ("prompt", "response"):
        assert set(verdicts[part]) == {probe.name for probe in tiny.probes}
        assert isinstance(verdicts[part]["labels"]["label"], list)
        assert verdicts[part]["mean"]["decision"] == "allow"


def test_the_openai_client_reads_chat_answers_and_streams(tiny: ProbedModel, address: str) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=f"{address}/v1", api_key="none")
    asked: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hello there"}],
        "max_tokens": 6,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**asked)
    verdicts = whole.model_extra["verdicts"]
    assert set(verdicts["prompt"]) == set(verdicts["response"]) == {p.name for p in tiny.probes}

    chunks = list(client.chat.completions.create(**asked, stream=True))
    told = [c.model_extra["verdicts"] for c in chunks if "verdicts" in (c.model_extra or {})]
    first_text = next(i for i, c in enumerate(chunks) if c.choices and c.choices[0].delta.content)
    assert "verdicts" in chunks[0].model_extra and first_text > 0
    # vLLM joins outputs that a busy server has not sent yet, the first with a later one.
    assert told[0]["prompt"] == verdicts["prompt"]
    assert (told[0]["response"] == {}) == (told[0]["response_tokens"] == 0)
    read = [one["response_tokens"] for one in told]
    assert read == sorted(read) and told[-1] == verdicts
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content


def test_several_prompts_and_answers_have_verdicts_of_their_own(address: str) -> None:
    import httpx

    request = {
        "model": "tiny",
        "prompt": ["hello there", "x"],
        "n": 2,
        "max_tokens": 5,
        "temperature": 1.5,
    }
    body = httpx.post(f"{address}/v1/completions", json=request, timeout=300).json()
    told = [choice["verdicts"] for choice in body["choices"]]
    assert len(told) == 4 and body["verdicts"] == told[0]
    assert body["kv_transfer_params"] is None and "logits" not in told[0]
    assert told[0]["prompt"] == told[1]["prompt"] != told[2]["prompt"]
    assert len({json.dumps(verdicts["response"]) for verdicts in told}) == 4

    with httpx.stream(
        "POST", f"{address}/v1/completions", json=request | {"stream": True}, timeout=300
    ) as stream:
        lines = [line for line in stream.iter_lines() if line.startswith("data: {")]
    last = json.loads(lines[-1].removeprefix("data: "))
    streamed = {choice["index"]: choice["verdicts"] for choice in last["choices"]}
    assert [streamed[i]["prompt"] for i in range(4)] == [verdicts["prompt"] for verdicts in told]
    assert len({json.dumps(streamed[i]["response"]) for i in range(4)}) == 4
    assert last["verdicts"] == streamed[0]


def test_an_aborted_request_leaves_and_the_next_is_exact(tiny: ProbedModel, address: str) -> None:
    import httpx

    def running() -> float:
        lines = httpx.get(f"{address}/metrics", timeout=60).text.splitlines()
        return sum(float(x.split()[-1]) for x in lines if x.startswith("vllm:num_requests_running"))

    asked = {"model": "tiny", "max_tokens": 600, "ignore_eos": True, "temperature": 0}
    for _ in range(4):
        with httpx.stream(
            "POST",
            f"{address}/v1/completions",
            json=asked | {"prompt": [1] * 70, "stream": True},
            timeout=300,
        ) as stream:
            next(stream.iter_lines())
    for _ in range(200):
        if not running():
            break
        time.sleep(0.1)
    assert not running()
    last = asked | {"prompt": [1] * 70, "max_tokens": 40, "return_token_ids": True}
    last |= {"pillion": {"logits": True}}
    body = httpx.post(f"{address}/v1/completions", json=last, timeout=300).json()
    assert tiny.error(as_output([1] * 70, body)) <= MARK


def test_the_probes_that_ride_are_listed(tiny: ProbedModel, address: str) -> None:
    import httpx

    listed = httpx.get(f"{address}/v1/probes", timeout=60).json()["data"]
    assert [entry["id"] for entry in listed] == [probe.name for probe in tiny.probes]
