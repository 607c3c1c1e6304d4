"""OpenAI's own client, unchanged, against a server on loopback: it must parse every answer."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from client import listening, settings

from pillion.backends.fake import FakeBackend
from pillion.runtime import PlainEngine
from pillion.serve import load_keys, make_policies
from tiny_models import make_artefact

openai = pytest.importorskip("openai", reason="the openai package is not installed")
RECIPES = Path(__file__).parents[2] / "recipes"
HELLO: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    backend = FakeBackend()
    probe = make_artefact("safe", backend.identity)
    policy = {"probe": "safe", "action": "annotate", "threshold": 0.0}
    chosen = settings(
        keys=load_keys(None, {"PILLION_API_KEYS": "sk-test"}),
        policies=make_policies({"policies": [policy]}),
    )
    with listening(PlainEngine(backend, [probe]), chosen) as address:
        yield f"{address}/v1"


@pytest.fixture(scope="module")
def client(url: str) -> Generator[Any]:
    with openai.OpenAI(base_url=url, api_key="sk-test", max_retries=0) as made:
        yield made


def strict(answer: Any) -> Any:
    """The same answer, parsed with every field checked: the client itself forgives."""
    return type(answer).model_validate(json.loads(answer.to_json()))


def test_a_chat_answer_is_parsed_and_holds_verdicts(client: Any) -> None:
    answer = client.chat.completions.create(model="m", messages=HELLO, max_tokens=6, n=2)
    assert strict(answer).choices[1].message.content is not None
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.verdicts["prompt"]["safe"]["decision"] == "annotate"
    assert answer.verdicts["response"]["safe"]["label"] in {"no", "yes"}
    assert answer._request_id


def test_a_stream_is_parsed_and_holds_verdicts_in_every_chunk(client: Any) -> None:
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            model="m", messages=HELLO, max_tokens=6, stream=True, stream_options=options
        )
    )
    for chunk in chunks:
        assert strict(chunk).object == "chat.completion.chunk"
    *parts, last = chunks
    assert last.usage.completion_tokens == 6 and last.choices == []
    assert "safe" in parts[0].verdicts["prompt"]
    assert all("response" in part.verdicts for part in parts)
    assert parts[-1].choices[0].finish_reason == "length"


def test_the_clients_own_gathering_of_a_stream_works(client: Any) -> None:
    with client.chat.completions.stream(model="m", messages=HELLO, max_tokens=6, seed=1) as stream:
        for _ in stream:
            pass
        gathered = stream.current_completion_snapshot
    whole = client.chat.completions.create(model="m", messages=HELLO, max_tokens=6, seed=1)
    assert gathered.choices[0].message.content == whole.choices[0].message.content


def test_logprobs_are_parsed(client: Any) -> None:
    answer = client.chat.completions.create(
        model="m", messages=HELLO, max_tokens=4, logprobs=True, top_logprobs=3
    )
    content = strict(answer).choices[0].logprobs.content
    assert len(content) == 4 and len(content[0].top_logprobs) == 3
    done = client.completions.create(model="m", prompt="hello", max_tokens=4, logprobs=2)
    logs = strict(done).choices[0].logprobs
    assert len(logs.tokens) == len(logs.token_logprobs) == len(logs.text_offset) == 4


def test_completions_are_parsed_one_several_and_as_a_stream(client: Any) -> None:
    many = client.completions.create(model="m", prompt=["a", "bc"], max_tokens=3, n=2)
    assert [choice.index for choice in strict(many).choices] == [0, 1, 2, 3]
    assert many.usage.prompt_tokens == 3
    one, two = (many.choices[i].verdicts["prompt"]["safe"]["probs"] for i in (0, 2))
    assert one != two
    ids = client.completions.create(model="m", prompt=[104, 105], max_tokens=2, temperature=0)
    text = client.completions.create(model="m", prompt="hi", max_tokens=2, temperature=0)
    assert ids.choices[0].text == text.choices[0].text
    chunks = list(client.completions.create(model="m", prompt="hi", max_tokens=2, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks)
    assert strict(chunks[-1]).choices[0].finish_reason == "length"
    assert chunks[-1].verdicts["response_tokens"] == 1


def test_moderations_are_parsed(client: Any) -> None:
    answer = client.moderations.create(input=["a", "b"])
    (one, _) = strict(answer).results
    # The policy has a threshold of 0: everything is flagged.
    assert one.flagged is True and one.categories.violence is False
    assert answer.results[0].category_scores.model_dump()["yes"] > 0


def test_models_are_listed(client: Any) -> None:
    (model,) = client.models.list().data
    assert strict(model).id == "m"
    assert client.models.retrieve("m").id == "m"


def test_errors_are_the_clients_own(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="m", messages=HELLO, modalities=["audio"])
    assert bad.value.param == "modalities" and bad.value.code == "unsupported_parameter"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="n", messages=HELLO)
    stranger = client.with_options(api_key="wrong")
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_a_client_that_goes_away_frees_the_engine(client: Any, url: str) -> None:
    stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
    next(iter(stream))
    stream.close()
    for _ in range(100):
        text = client._client.get(url.removesuffix("/v1") + "/metrics").text
        if "pillion_running 0.0" in text:
            break
    assert "pillion_running 0.0" in text


def test_the_recipe_for_clients_reads_verdicts(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    recipe = runpy.run_path(str(RECIPES / "read_verdicts.py"))
    verdicts = recipe["main"]([url])
    assert verdicts["prompt"]["safe"]["decision"] == "annotate"
    assert set(verdicts["response"]["safe"]["probs"]) == {"no", "yes"}
    shown = capsys.readouterr().out
    assert shown.startswith("prompt: safe ") and "response: safe " in shown


NODE = """
import OpenAI from "openai";
const client = new OpenAI({baseURL: process.argv[2], apiKey: "sk-test", maxRetries: 0});
const messages = [{role: "user", content: "hello"}];
const whole = await client.chat.completions.create({model: "m", messages, max_tokens: 4});
const stream = await client.chat.completions.create(
    {model: "m", messages, max_tokens: 4, stream: true});
const chunks = [];
for await (const chunk of stream) chunks.push(chunk);
const moderation = await client.moderations.create({input: "a"});
let param = null;
try { await client.chat.completions.create({model: "m", messages, modalities: ["audio"]}); }
catch (error) { param = error.param; }
console.log(JSON.stringify({whole, chunks, moderation, param}));
"""


def test_the_node_client_parses_the_same(url: str, tmp_path: Path) -> None:
    """NODE_PATH names a folder with the package, for instance after `npm install openai` there."""
    modules = Path(os.environ.get("NODE_PATH", "node_modules"))
    if shutil.which("node") is None or not (modules / "openai").is_dir():
        pytest.skip("node, or its openai package in NODE_PATH, is not installed")
    (tmp_path / "node_modules").symlink_to(modules.resolve())
    (tmp_path / "ask.mjs").write_text(NODE)
    command = ["node", "ask.mjs", url]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got["whole"]["verdicts"]["prompt"]["safe"]["decision"] == "annotate"
    assert got["chunks"][0]["verdicts"]["prompt"] == got["whole"]["verdicts"]["prompt"]
    assert got["moderation"]["results"][0]["flagged"] is True
    assert got["param"] == "modalities"
