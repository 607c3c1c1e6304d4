"""The file of policies: what is read, and the sentences for what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pillion.backends.fake import FakeBackend
from pillion.errors import ConfigError
from pillion.policies.actions import Block, Escalate, Route, Stop
from pillion.policies.policy import api_key, make_policies, read_policies
from tiny_models import make_artefact

YAML = """
policies:
  - probe: p
    action: block
    label: yes
    threshold: 0.9
    fail: closed
    refusal: No.
  - {probe: p, action: stop, fail: open, hold_back: 4}
  - {probe: p, action: route, fail: open, upstream: careful}
  - {probe: p, action: escalate, fail: closed, judge: big, band: [0.3, 0.7]}
  - {probe: p, action: annotate, on: response}
upstreams:
  careful: {url: "http://h/v1", model: large}
judges:
  big: {url: "https://j/v1", model: judge, api_key_env: JUDGE_KEY}
"""

TOML = """
[[policies]]
probe = "p"
action = "stop"
fail = "closed"
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_yaml_file_states_every_policy(tmp_path: Path) -> None:
    found = read_policies(write(tmp_path, "p.yaml", YAML))
    kinds = [type(policy).__name__ for policy in found.policies]
    assert kinds == ["Block", "Stop", "Route", "Escalate", "Annotate"]
    assert [p.action for p in found.of("response")] == ["stop", "annotate"]
    assert [p.action for p in found.of("prompt")] == ["block", "route", "escalate"]
    block, stop, route, escalate, _ = found.policies
    assert isinstance(block, Block) and block.refusal == "No." and block.threshold == 0.9
    assert block.label == "yes"
    assert isinstance(stop, Stop) and stop.hold_back == 4 and stop.fail == "open"
    assert isinstance(route, Route) and found.upstreams[route.upstream].model == "large"
    assert isinstance(escalate, Escalate) and escalate.band == (0.3, 0.7)


def test_a_toml_file_says_the_same(tmp_path: Path) -> None:
    (stop,) = read_policies(write(tmp_path, "p.toml", TOML)).policies
    assert stop == Stop(probe="p", action="stop", fail="closed")


BLOCK = {"probe": "p", "action": "block", "fail": "open"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"polices": []}, "Unknown key 'polices'.*Did you mean 'policies'"),
        ({"policies": {}}, ""),
        ({"policies": 3}, "policies is no list"),
        ({"policies": [3]}, r"policies\[0\] is no mapping"),
        ({"policies": [{"probe": "p"}]}, r"policies\[0\]: say its action \(annotate, block"),
        ({"policies": [{"probe": "p", "action": "blok"}]}, "Did you mean 'block'"),
        ({"policies": [{**BLOCK, "refusl": "x"}]}, "Did you mean 'refusal'"),
        ({"policies": [{"probe": "p", "action": "block"}]}, "fail.*open or closed"),
        ({"policies": [{**BLOCK, "fail": "maybe"}]}, "fail: Input should be 'open' or 'closed'"),
        ({"policies": [{**BLOCK, "threshold": 2}]}, r"policies\[0\].threshold"),
        ({"policies": [{**BLOCK, "threshold": "0.5"}]}, r"policies\[0\].threshold"),
        ({"policies": [{**BLOCK, "on": "response"}]}, r"policies\[0\].on"),
        ({"policies": [{**BLOCK, "action": "stop", "hold_back": -1}]}, "hold_back"),
        ({"policies": [{**BLOCK, "action": "route", "upstream": "u"}]}, "Unknown upstream 'u'"),
        ({"policies": [{**BLOCK, "action": "escalate", "judge": "j"}]}, "Unknown judge 'j'"),
        (
            {"policies": [{**BLOCK, "action": "escalate", "judge": "j", "band": [0.7, 0.3]}]},
            r"band is \[0.7, 0.3\]",
        ),
        ({"upstreams": {"u": {"url": "ftp://x", "model": "m"}}}, r"upstreams.u.url"),
        ({"judges": {"j": {"url": "http://x", "modl": "m"}}}, "Did you mean 'model'"),
        ({"judges": []}, ""),
        ({"judges": ["a"]}, "judges is no mapping"),
    ],
)
def test_what_cannot_be_used_is_named(content: dict[str, Any], sentence: str) -> None:
    if not sentence:  # an empty list or mapping is none
        assert make_policies(content).policies == ()
        return
    with pytest.raises(ConfigError, match=sentence):
        make_policies(content)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("p.yaml", "a: [", "is no YAML"),
        ("p.yaml", "policies: []\npolicies: []", "the key 'policies' stands there twice"),
        ("p.toml", "a = ", "is no TOML"),
        ("p.txt", "a", "ends in '.txt'"),
        ("p.yaml", "- a", "holds no mapping"),
        ("p.yaml", "polices: []", "p.yaml: Unknown key 'polices'"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, name: str, text: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_policies(write(tmp_path, name, text))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_policies(tmp_path / "none.yaml")


def test_policies_are_checked_against_the_probes() -> None:
    identity = FakeBackend().identity
    probes = {
        "p": make_artefact("p", identity),
        "q": make_artefact("q", identity, task="multiclass"),
    }

    def check(**facts: Any) -> None:
        judges = {"j": {"url": "http://x/v1", "model": "m"}}
        make_policies({"policies": [{**BLOCK, **facts}], "judges": judges}).check(probes)

    check()
    check(probe="q", label="b")
    for facts, sentence in (
        ({"probe": "pp"}, "Did you mean 'p'"),
        ({"probe": "q"}, r"is multiclass; say which label it waits for \(a, b, c\)"),
        ({"label": "yess"}, "Did you mean 'yes'"),
        ({"action": "escalate", "judge": "j"}, "no band to abstain in"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            check(**facts)


def test_the_key_of_a_server_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    server = {"url": "http://x/v1", "model": "m", "api_key_env": "KEY_OF_X"}
    upstream = make_policies({"upstreams": {"u": server}}).upstreams["u"]
    with pytest.raises(ConfigError, match="KEY_OF_X, which is not set"):
        api_key(upstream)
    monkeypatch.setenv("KEY_OF_X", "secret")
    assert api_key(upstream) == "secret"


LIMITS: list[tuple[dict[str, Any], str, list[Any], list[Any]]] = [
    ({}, "threshold", [0, 0.5, 1], [-0.5, 1.5, float("nan")]),
    ({"action": "stop"}, "hold_back", [0, 1024], [-1, 1025, 0.5]),
    ({"action": "stop"}, "after_tokens", [1, 9], [0]),
    ({"action": "escalate", "judge": "j"}, "hold_back", [0, 1024], [-1, 1025]),
    ({"action": "escalate", "judge": "j"}, "after_tokens", [1, 9], [0]),
    (
        {"action": "escalate", "judge": "j"},
        "band",
        [[0, 1], [0.5, 0.6], [0.0, 0.5], [0.5, 1.0]],
        [[0.5, 0.5], [-0.5, 0.5], [0.5, 1.5], [0.7, 0.3]],
    ),
]


@pytest.mark.parametrize(("facts", "key", "good", "bad"), LIMITS)
def test_numbers_are_taken_up_to_their_limits_and_refused_beyond(
    facts: dict[str, Any], key: str, good: list[Any], bad: list[Any]
) -> None:
    judges = {"j": {"url": "http://x/v1", "model": "m"}}

    def read(value: Any) -> Any:
        one = {**BLOCK, **facts, key: value}
        return getattr(make_policies({"policies": [one], "judges": judges}).policies[0], key)

    for value in good:
        assert read(value) == (tuple(value) if isinstance(value, list) else value)
    for value in bad:
        with pytest.raises(ConfigError, match=rf"policies\[0\]\.{key}"):
            read(value)


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [("seconds", [0.5, 60.0], [0.0, -0.5, float("inf")]), ("max_tokens", [1, 99], [0])],
)
def test_a_judge_waits_and_answers_within_limits(key: str, good: list[Any], bad: list[Any]) -> None:
    def read(value: Any) -> Any:
        judge = {"url": "http://x/v1", "model": "m", key: value}
        return getattr(make_policies({"judges": {"j": judge}}).judges["j"], key)

    assert [read(value) for value in good] == good
    for value in bad:
        with pytest.raises(ConfigError, match=rf"judges\.j\.{key}"):
            read(value)


def test_what_a_file_leaves_out_is_as_the_documents_say() -> None:
    judge = {"url": "http://x/v1", "model": "m"}
    ask = {**BLOCK, "action": "escalate", "judge": "j"}
    found = make_policies(
        {
            "policies": [BLOCK, {**BLOCK, "action": "stop"}, ask],
            "judges": {"j": judge},
            "upstreams": {"u": judge},
        }
    )
    block, stop, escalate = found.policies
    assert isinstance(block, Block) and (block.on, block.threshold, block.label) == (
        "prompt",
        None,
        None,
    )
    assert isinstance(stop, Stop) and (stop.on, stop.hold_back, stop.after_tokens) == (
        "response",
        1,
        1,
    )
    assert isinstance(escalate, Escalate) and escalate.band is None
    assert (escalate.on, escalate.hold_back, escalate.after_tokens) == ("prompt", 1, 1)
    assert found.upstreams["u"].seconds == 30 and found.judges["j"].max_tokens == 8
    assert api_key(found.upstreams["u"]) is None


def test_the_policy_that_is_at_fault_is_named_by_its_place() -> None:
    route = {**BLOCK, "action": "route", "upstream": "u"}
    with pytest.raises(ConfigError, match=r"policies\[1\]: Unknown upstream 'u'"):
        make_policies({"policies": [BLOCK, route]})
    with pytest.raises(ConfigError, match=r"policies\[1\] is no mapping"):
        make_policies({"policies": [BLOCK, 3]})
    with pytest.raises(ConfigError, match=r"^Policy 2 \(block\): Unknown probe 'q'"):
        probes = {"p": make_artefact("p", FakeBackend().identity)}
        make_policies({"policies": [BLOCK, {**BLOCK, "probe": "q"}]}).check(probes)


def test_a_policy_looks_at_a_part_of_which_its_probe_has_verdicts() -> None:
    identity = FakeBackend().identity
    probes = {
        "of-answers": make_artefact("of-answers", identity, template="chat", scope="response"),
        "of-users": make_artefact("of-users", identity, template="chat", scope="last-user"),
    }
    stop = {**BLOCK, "action": "stop"}
    for one in ({**BLOCK, "probe": "of-users"}, {**stop, "probe": "of-answers"}):
        make_policies({"policies": [one]}).check(probes)
    for one, part in (
        ({**BLOCK, "probe": "of-answers"}, "prompt"),
        ({**stop, "probe": "of-users"}, "response"),
    ):
        with pytest.raises(ConfigError, match=f"is on {part}s, and probe .* reads the scope"):
            make_policies({"policies": [one]}).check(probes)


def test_a_card_with_a_band_lets_an_escalation_leave_its_own_out() -> None:
    probes = {"p": make_artefact("p", FakeBackend().identity).revised(abstain=((0.4, 0.6),))}
    judges = {"j": {"url": "http://x/v1", "model": "m"}}
    ask = {**BLOCK, "action": "escalate", "judge": "j"}
    make_policies({"policies": [ask], "judges": judges}).check(probes)
    bare = {"p": make_artefact("p", FakeBackend().identity)}
    make_policies({"policies": [{**ask, "band": [0.4, 0.6]}], "judges": judges}).check(bare)


def test_routes_go_with_policies_on_answers_that_fail_open_and_any_on_prompts() -> None:
    content = {
        "policies": [
            {**BLOCK, "action": "route", "upstream": "u"},
            {**BLOCK, "action": "escalate", "judge": "j", "fail": "closed"},
            {**BLOCK, "action": "stop"},
        ],
        "upstreams": {"u": {"url": "http://x/v1", "model": "m"}},
        "judges": {"j": {"url": "http://x/v1", "model": "m"}},
    }
    assert len(make_policies(content).policies) == 3
    content["policies"][2] |= {"fail": "closed"}  # type: ignore[index]
    with pytest.raises(ConfigError, match=r"policies\[2\] \(stop\) fails closed"):
        make_policies(content)
    del content["policies"][0]  # type: ignore[attr-defined]
    assert len(make_policies(content).policies) == 2


@pytest.mark.parametrize(
    ("wrong", "key"),
    [({"threshold": 2}, "threshold"), ({"action": "stop", "after_tokens": 0}, "after_tokens")],
)
def test_of_several_wrong_keys_the_first_is_told_and_only_a_missing_fail_is_asked_for(
    wrong: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError, match=rf"policies\[0\]\.{key}: ") as caught:
        make_policies({"policies": [{**BLOCK, **wrong}]})
    assert "open or closed" not in str(caught.value)
    two = {**BLOCK, **wrong, "label": 3}
    with pytest.raises(ConfigError, match=r"policies\[0\]\.label: "):
        make_policies({"policies": [two]})
    missing = {name: value for name, value in BLOCK.items() if name != "fail"}
    with pytest.raises(ConfigError, match=r"Say whether it fails open or closed\.$"):
        make_policies({"policies": [missing]})


def test_a_policy_is_a_value() -> None:
    (policy,) = make_policies({"policies": [BLOCK]}).policies
    assert policy in {policy}
    with pytest.raises(ValidationError, match="frozen"):
        policy.probe = "q"  # type: ignore[misc]
