"""What rides in SGLang, part by part and without it: settings, steps, turns, doors, refusals."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chat_templates import chat_tokenizer
from pillion.backends.codec import Codec
from pillion.core import ModelIdentity, Turn
from pillion.errors import ConfigError, MismatchError, RunError
from pillion.probe import Artefact
from pillion.riding.latest_logits import KEY
from pillion.riding.turns import TURNS, turns_args
from pillion.sglang.adapter import SglangStepReader
from pillion.sglang.engine_proxy import EngineProxy
from pillion.sglang.routes import PLAIN, READ, RouteFilter, is_open
from pillion.sglang.run import options_of
from pillion.sglang.settings import VARIABLE, SglangProbeSettings, settings_of
from pillion.sglang.start import check_engine, check_numbers, check_pools, check_probes, footprint
from pillion.sglang.step import ATTRIBUTE, SECRET, step_of
from pillion.sglang.taps import SglangTaps
from pillion.sglang.versions import check_model, check_version
from tiny_models import make_artefact

IDENTITY = ModelIdentity("none", "w", "t", "c", 4, 16, "float32", 4096)


def made(scope: str = "all", probe: str = "gate", **others: Any) -> Artefact:
    return make_artefact(scope, IDENTITY, probe, template="chat", scope=scope, **others)


# -- settings and versions


def test_settings_go_through_the_environment() -> None:
    settings = SglangProbeSettings.of(
        ["a/safety", "b/intent"], "LlamaForCausalLM", reasoning=(1, 2)
    )
    assert settings_of(settings.variables()) == settings
    assert list(settings.probes) == ["safety", "intent"]
    assert settings.secret != SglangProbeSettings.of(["a"], "LlamaForCausalLM").secret
    assert settings_of({}) is None
    with pytest.raises(ConfigError, match="architectur"):
        settings_of({VARIABLE: '{"probes": {"a": "a"}, "architectur": "x"}'})
    with pytest.raises(ConfigError, match=r"must differ; got a, a\."):
        SglangProbeSettings.of(["x/a", "y/a"], "LlamaForCausalLM")
    with pytest.raises(ConfigError, match="Got no probe"):
        SglangProbeSettings.of([], "LlamaForCausalLM")


def test_other_versions_and_models_are_refused_by_name() -> None:
    check_version("0.5.23")
    check_model("Qwen3ForCausalLM")
    with pytest.raises(ConfigError, match=r"SGLang 0\.5\.22 is installed, .* 0\.5\.23 only"):
        check_version("0.5.22")
    with pytest.raises(ConfigError, match="not installed"):
        check_version("")
    with pytest.raises(ConfigError, match="is a GptOssForCausalLM"):
        check_model("GptOssForCausalLM")


def test_probes_of_another_model_or_of_one_name_are_refused() -> None:
    check_probes([made(), made("user", "mha")], IDENTITY)
    other = ModelIdentity("none", "other", "t", "c", 4, 16, "float32", 4096)
    with pytest.raises(MismatchError):
        check_probes([made()], other)
    with pytest.raises(ConfigError, match="names must differ"):
        check_probes([made(), made()], IDENTITY)


# -- options


def test_options_are_ours_first_and_a_users_last() -> None:
    mine = options_of(Path("/model"), "float32", ["--port", "1"])
    assert mine[:4] == ["--model-path", "/model", "--dtype", "float32"]
    assert mine[4:6] == ["--page-size", "16"] and mine[-2:] == ["--port", "1"]
    assert mine.count("disabled") == 2
    given = options_of(
        Path("/model"), "float32", ["--page-size=1", "--cuda-graph-backend-decode", "full"]
    )
    assert "16" not in given and given.count("disabled") == 1
    with pytest.raises(ConfigError, match="--model is among SGLang's options"):
        options_of(Path("/model"), "float32", ["--model", "x"])


GRAPHS = {"decode": "disabled", "prefill": "disabled"}
PLAIN_ARGS: dict[str, Any] = {
    "cuda_graph_config": GRAPHS,
    "disaggregation_mode": "null",
    "tp_size": 1,
    "pp_size": 1,
    "dp_size": 1,
    "attn_cp_size": 1,
    "dcp_size": 1,
    "nnodes": 1,
    "tokenizer_worker_num": 1,
    "load_format": "auto",
    "kv_cache_dtype": "auto",
    "dtype": "float32",
    "model_impl": "auto",
    "model_path": "/model",
    "tokenizer_path": "/model",
    "json_model_override_args": "{}",
    "cpu_offload_gb": 0,
}


class Options(SimpleNamespace):
    """Options of SGLang: what is not given is off."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**(PLAIN_ARGS | given))
        graphs = {k: SimpleNamespace(backend=v) for k, v in self.cuda_graph_config.items()}
        self.cuda_graph_config = SimpleNamespace(**graphs)

    def __getattr__(self, name: str) -> Any:
        return None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cuda_graph_config": GRAPHS | {"decode": "full"}}, "graphs of decode"),
        ({"cuda_graph_config": GRAPHS | {"prefill": "breakable"}}, "graphs of prefill"),
        ({"enable_torch_compile": True}, "torch.compile"),
        ({"tp_size": 2}, "tp_size=2"),
        ({"pp_size": 2}, "pp_size=2"),
        ({"dp_size": 2}, "dp_size=2"),
        ({"attn_cp_size": 2}, "attn_cp_size=2"),
        ({"dcp_size": 2}, "dcp_size=2"),
        ({"prefill_only_disable_kv_cache": True}, "prompts that are not cached"),
        ({"nnodes": 2}, "nnodes=2"),
        ({"speculative_algorithm": "EAGLE3"}, "speculative_algorithm=EAGLE3"),
        ({"disaggregation_mode": "prefill"}, "disaggregation_mode=prefill"),
        ({"enable_lora": True}, "LoRA"),
        ({"lora_paths": ["a"]}, "LoRA"),
        ({"enable_hierarchical_cache": True}, "a cache outside the device"),
        ({"enable_lmcache": True}, "a cache outside the device"),
        ({"radix_cache_backend": "x"}, "radix_cache_backend=x"),
        ({"enable_unified_memory": True}, "move slots"),
        ({"enable_streaming_session": True}, "sessions"),
        ({"enable_two_batch_overlap": True}, "two batches"),
        ({"dllm_algorithm": "x"}, "diffusion"),
        ({"enable_mis": True}, "enable_mis"),
        ({"is_embedding": True}, "is_embedding"),
        ({"tokenizer_worker_num": 2}, "tokenizer_worker_num=2"),
        ({"skip_tokenizer_init": True}, "skip_tokenizer_init"),
        ({"grpc_port": 1}, "gRPC"),
        ({"enable_memory_saver": True}, "enable_memory_saver"),
        ({"forward_hooks": [1]}, "forward_hooks"),
    ],
)
def test_ways_to_run_that_probes_do_not_ride_with_are_refused(
    given: dict[str, Any], said: str
) -> None:
    check_engine(Options())
    with pytest.raises(ConfigError, match=said) as error:
        check_engine(Options(**given))
    assert str(error.value).startswith("Probes do not ride in SGLang with ")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"quantization": "fp8"}, "Quantization=fp8"),
        ({"load_format": "dummy"}, "Load_format=dummy"),
        ({"json_model_override_args": '{"rope_theta": 1}'}, "Json_model_override_args"),
        ({"kv_cache_dtype": "fp8_e5m2"}, "Kv_cache_dtype=fp8_e5m2"),
        ({"model_impl": "transformers"}, "Model_impl=transformers"),
        ({"tokenizer_path": "/other"}, "Tokenizer_path=/other"),
        ({"chat_template": "x"}, "A chat template of its own"),
        ({"cpu_offload_gb": 1}, "Offloaded"),
    ],
)
def test_options_that_give_other_numbers_are_refused(given: dict[str, Any], said: str) -> None:
    check_numbers(Options(), is_quantised=False)
    with pytest.raises(ConfigError, match=said):
        check_numbers(Options(**given), is_quantised=False)
    with pytest.raises(ConfigError, match="Quantised weights"):
        check_numbers(Options(), is_quantised=True)


def runner(allocator: str, table: str) -> Any:
    kinds = {name: type(name, (), {}) for name in (allocator, table)}
    return SimpleNamespace(
        token_to_kv_pool_allocator=kinds[allocator](), req_to_token_pool=kinds[table]()
    )


def test_a_cache_of_several_pools_is_refused() -> None:
    check_pools(runner("PagedTokenToKVPoolAllocator", "ReqToTokenPool"))
    with pytest.raises(ConfigError, match="several pools"):
        check_pools(runner("SWATokenToKVPoolAllocator", "ReqToTokenPool"))
    with pytest.raises(ConfigError, match="several pools"):
        check_pools(runner("TokenToKVPoolAllocator", "HybridReqToTokenPool"))


def test_what_it_costs_is_said_and_pages_of_one_token_are_called_dear() -> None:
    settings = SglangProbeSettings.of(["a"], "LlamaForCausalLM")
    for page in (1, 16):
        reader = SglangStepReader([made()], torch.device("cpu"), torch.float32, 64 // page, page)
        said = footprint(reader, settings, page, 64 // page)
        assert "for 64 tokens" in said and ("a page size of 16" in said) is (page == 1)


# -- steps


class Req(SimpleNamespace):
    """A request of SGLang."""

    __hash__ = object.__hash__


def request(ids: list[int], **params: Any) -> Req:
    return Req(origin_input_ids=ids, sampling_params=SimpleNamespace(custom_params=params))


def batch(reqs: list[Req], is_decode: bool, begins: list[int], ends: list[int]) -> Any:
    num = sum(ends) - sum(begins)
    return SimpleNamespace(
        reqs=reqs,
        forward_mode=SimpleNamespace(is_decode=lambda: is_decode),
        prefix_lens=begins,
        extend_lens=[end - begin for begin, end in zip(begins, ends, strict=True)],
        req_pool_indices=torch.tensor([1, 0]),
        out_cache_loc=torch.arange(num),
        input_ids=torch.arange(num),
    )


def test_a_step_is_told_by_its_batch() -> None:
    reader = SglangStepReader([made("user")], torch.device("cpu"), torch.float32, 8, 4)
    row = Codec(chat_tokenizer("chatml"), "x").encode_chat((Turn("user", "Hi"),))
    told = request(list(row), **turns_args(row), **{SECRET: "s"})
    forged = request(list(row), **turns_args(row), **{SECRET: "guessed"})
    table = torch.arange(64).view(2, 32)
    step = step_of(
        batch([told, forged], False, [0, 4], [8, 9]), torch.tensor([]), table, reader, "s"
    )
    assert [(one.begin, one.end) for one in step.rows] == [(0, 8), (4, 9)]
    assert step.rows[0].told.tokens.segments == row.segments
    assert step.rows[1].told.tokens.segments == () and step.rows[1].told.tokens == tuple(row)
    assert step.history(0).tolist() == table[1, :8].tolist()
    lens = torch.tensor([21, 22])
    going = step_of(batch([told, forged], True, [20, 21], [21, 22]), lens, table, reader, "s")
    assert [(one.begin, one.end) for one in going.rows] == [(20, 21), (21, 22)]
    assert [one.request for one in going.rows] == [one.request for one in step.rows]
    assert len({one.request for one in going.rows}) == 2


def test_a_request_that_sglang_lets_go_of_leaves() -> None:
    reader = SglangStepReader([made()], torch.device("cpu"), torch.float32, 8, 4)
    one = request([1, 2])
    step_of(batch([one], False, [0], [2]), torch.tensor([]), torch.zeros(2, 4), reader, "s")
    assert getattr(one, ATTRIBUTE).request and not reader._left
    del one
    gc.collect()
    assert len(reader._left) == 1


def test_a_pass_that_shows_no_states_is_an_error() -> None:
    """As under a graph, which replays a pass without its hooks: values would be another step's."""
    taps = SglangTaps([0, 2, 4], num_layers=4)
    assert taps.below == (0, 2) and taps.reads_last
    taps.reader = reader = SglangStepReader(
        [made(layers=[0, 2, 4])], torch.device("cpu"), torch.float32, 8, 4
    )
    one = batch([request([1, 2])], False, [0], [2])
    step = step_of(one, torch.tensor([]), torch.zeros(2, 4), reader, "s")
    states = torch.randn(3, 5, 16)  # of two tokens, and of three that pad
    taps.pass_by(None, (0, 1, 2, 3, list(states[:2])), {})
    taps.begin(step)
    taps.keep_last(None, (), (None, states[2]))
    assert taps.pass_by(None, (0, 1, 2, 3, list(states[:2])), {}) == ((0, 1, 2, 3), {})
    reader.settle(taps.end())
    assert reader.latest.params(step.rows[0].request)[KEY]["prompt"]
    taps.begin(step)
    with pytest.raises(RunError, match="without showing its hidden states"):
        taps.end()


# -- turns and answers


def engine_proxy(*scopes: str) -> EngineProxy:
    return EngineProxy([made(one) for one in scopes], Codec(chat_tokenizer("chatml"), "x"), "s")


def conversation(*contents: str, **others: Any) -> Any:
    messages = [{"role": "user", "content": one} for one in contents]
    return SimpleNamespace(**{"messages": messages, "tools": None, "documents": None} | others)


def test_turns_are_told_where_both_have_rendered_the_same() -> None:
    own = engine_proxy("user")
    asked, row = conversation("Hi"), own._rendering._codec.encode_chat((Turn("user", "Hi"),))
    for ids, is_told in ((list(row), True), ([*row, 0], False)):
        params: dict[str, Any] = {"custom_params": {"other": 1}}
        adapted = SimpleNamespace(input_ids=ids, text=None, sampling_params=params)
        own.tell_turns(adapted, asked, None)
        found = params["custom_params"]
        assert (found.get(SECRET) == "s" and TURNS in found) is is_told and found["other"] == 1
    text = SimpleNamespace(input_ids=None, text="x", sampling_params={})
    own.tell_turns(text, asked, lambda _: {"input_ids": list(row)})
    assert TURNS in text.sampling_params["custom_params"]
    plain = SimpleNamespace(input_ids=list(row), sampling_params={})
    engine_proxy("all").tell_turns(plain, asked, None)
    assert plain.sampling_params == {}


def test_control_tokens_are_refused_wherever_they_stand() -> None:
    own = engine_proxy("user")
    own.check_request(conversation("fine"))
    with pytest.raises(ValueError, match="Message 2 spells the control token"):
        own.check_request(conversation("fine", "<|im_end|>"))
    with pytest.raises(ValueError, match="One of the tools spells"):
        own.check_request(conversation("fine", tools=[{"name": "<|im_start|>"}]))


def test_turns_that_a_client_tells_are_dropped() -> None:
    own = engine_proxy("user")
    forged = {TURNS: "x", SECRET: "guess", "other": 1}
    for params in ({"custom_params": dict(forged)}, [{"custom_params": dict(forged)}, None]):
        own.check_turns(SimpleNamespace(sampling_params=params))
        first: Any = params[0] if isinstance(params, list) else params
        assert first["custom_params"] == {"other": 1}
    mine = {"custom_params": {TURNS: "x", SECRET: "s"}}
    own.check_turns(SimpleNamespace(sampling_params=mine))
    assert TURNS in mine["custom_params"]


def found(number: float, read: int) -> dict[str, Any]:
    return {
        "prompt": {"all": [number]},
        "response": {"all": [-number]} if read else {},
        "read": read,
        "seconds": 0.0,
    }


def with_verdicts(outputs: list[Any], path: str | None = None, **asked: Any) -> list[Any]:
    async def engine() -> AsyncGenerator[Any]:
        for one in outputs:
            yield one

    async def every() -> list[Any]:
        single = {"is_single": True, "parallel_sample_num": 1, "sampling_params": None}
        about = SimpleNamespace(**single | asked)
        return [one async for one in engine_proxy("all").with_verdicts(engine(), about, path)]

    return asyncio.run(every())


def test_each_of_several_answers_has_its_own_verdicts() -> None:
    outputs = [{"meta_info": {KEY: found(i // 2 + 1.0, i + 1)}} for i in range(4)]
    (many,) = with_verdicts([outputs], is_single=False, batch_size=2, parallel_sample_num=2)
    told = [one["meta_info"]["verdicts"] for one in many]
    assert [one["response_tokens"] for one in told] == [1, 2, 3, 4]
    assert told[0]["prompt"] == told[1]["prompt"] != told[2]["prompt"]
    assert all(KEY not in one["meta_info"] for one in many)


def test_a_stream_of_several_prompts_is_heard_by_its_indices() -> None:
    events = [
        {"index": 1, "meta_info": {KEY: found(2.0, 0)}},
        {"index": 0, "meta_info": {KEY: found(1.0, 3)}},
        {"index": 1, "meta_info": {KEY: found(2.0, 5)}},
        {"index": 1, "meta_info": {}},
    ]
    told = with_verdicts(events, is_single=False, batch_size=2)
    counts = [one["meta_info"]["verdicts"]["response_tokens"] for one in told]
    assert counts == [0, 3, 5, 5], "an output that carries nothing says what was last said"


def test_other_routes_keep_their_shape() -> None:
    (one,) = with_verdicts([{"meta_info": {KEY: found(1.0, 0)}}], path="/v1/completions")
    assert one["meta_info"] == {}
    (one,) = with_verdicts([{"meta_info": {KEY: found(1.0, 0)}}], path="/generate")
    assert one["meta_info"]["verdicts"]["prompt"]["all"]["label"] == "yes"


def test_beams_are_refused() -> None:
    for params in ({"beam_width": 2}, [{"beam_width": 1}, {"beam_width": 3}]):
        with pytest.raises(ValueError, match=r"beam_width=[23]: beam search"):
            with_verdicts([], sampling_params=params)


def test_a_request_given_up_before_it_was_read_says_so() -> None:
    (one,) = with_verdicts([{"meta_info": {}}])
    assert "given up" in one["meta_info"]["verdicts"]["error"]


# -- doors


def test_only_routes_that_are_known_are_open() -> None:
    assert all(is_open("POST", path) for path in (*READ, *PLAIN))
    assert is_open("GET", "/health") and is_open("GET", "/v1/models")
    for method, path in (
        ("POST", "/v1/responses"),
        ("PUT", "/set_internal_state"),
        ("DELETE", "/hicache/storage-backend"),
        ("GET", "/release_memory_occupation"),
        ("GET", "/open_session/"),
        ("GET", "/weights_checker"),  # which writes random weights where it is told to
        ("GET", "/slow_down"),
    ):
        assert not is_open(method, path)


@pytest.mark.parametrize("root", ["", "/api", "/api/"])
def test_doors_are_the_same_behind_a_path_of_the_servers_own(root: str) -> None:
    """The bug: with --fastapi-root-path all were closed, but those that had to be."""
    sent: list[dict[str, Any]] = []
    passed: list[str] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        passed.append(scope["path"])

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    own = root.rstrip("/")
    for method, path in (("POST", "/generate"), ("GET", "/open_session"), ("GET", "/apis")):
        scope = {"type": "http", "method": method, "path": f"{own}{path}", "root_path": root}
        asyncio.run(RouteFilter(app)(scope, None, send))
    assert passed == [f"{own}/generate", f"{own}/apis"]
    assert sent[0]["status"] == 404 and b'"/open_session is not served' in sent[1]["body"]


def test_websockets_are_closed() -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(RouteFilter(None)({"type": "websocket", "path": "/v1/realtime"}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
