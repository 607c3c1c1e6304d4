"""Judges: what they are asked, what is made of their answers, what is asked again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from pillion.backends.fake import FakeBackend
from pillion.core import Text, Turn
from pillion.data import Rows
from pillion.errors import ConfigError, Interrupted, MismatchError
from pillion.fit import FitSettings, fit
from pillion.labelling import (
    ClassifierJudge,
    Journal,
    Judge,
    JudgeAnswer,
    ProbeJudge,
    ServerJudge,
    label_texts,
)
from pillion.policies import JudgeServer as Server
from pillion.probe import Artefact
from pillion.runtime import LanguageModel
from pillion.serve.upstream import UpstreamError, read_probability
from pillion.train import ProbeConfig, TrainSettings
from tiny_models import tiny_tokenizer

SERVER = Server(url="http://judge/v1", model="big")
Handle = Callable[[dict[str, Any]], httpx.Response]


def says(word: str, *begins: tuple[str, float]) -> dict[str, Any]:
    """A body of an answer; what else it might have begun with, and how probably."""
    choice: dict[str, Any] = {"message": {"content": word}}
    if begins:
        listed = [{"token": token, "logprob": math.log(p)} for token, p in begins]
        choice["logprobs"] = {"content": [{**listed[0], "top_logprobs": listed}]}
    return {"choices": [choice]}


def judge(handle: Handle, labels: Sequence[str] = ("toxic",), parallel: int = 8) -> ServerJudge:
    transport = httpx.MockTransport(lambda request: handle(json.loads(request.content)))
    return ServerJudge(SERVER, labels, parallel, transport, pause_seconds=0.0)


def answers(judge: Judge, *texts: Text) -> list[JudgeAnswer]:
    return sorted(judge.ask(texts), key=lambda one: one.place)


# --- what an answer means


@pytest.mark.parametrize(
    ("body", "probability"),
    [
        (says("Yes", ("Yes", 0.6), ("No", 0.2)), 0.75),
        (says("no.", ("no", 0.6), (" Yes", 0.1), ("yes", 0.1), ("Maybe", 0.2)), 0.25),
        (says("yes"), 1.0),
        (says("No, it does not"), 0.0),
        (says("yes", ("Y", 0.9), ("N", 0.1)), 1.0),
        (says("perhaps", ("perhaps", 0.9), ("yes", 0.1)), None),
        (says("Not sure"), None),
        (says("Nothing in it is."), None),
        (says("yesterday"), None),
        (says("Yes/No"), None),
        (says("**Yes**, it is"), 1.0),
        (says(' "no"'), 0.0),
        ({"choices": []}, None),
        ({"choices": [{"message": {"content": "no"}, "logprobs": None}]}, 0.0),
        ({"choices": [{"message": {"content": "no"}, "logprobs": {"content": [3]}}]}, 0.0),
    ],
)
def test_an_answer_is_read_by_its_first_word(body: Any, probability: float | None) -> None:
    """`Not sure` was taken for a no: a judge in doubt then let a text through."""
    found = read_probability(body)
    assert found == (probability if probability is None else pytest.approx(probability))


def test_white_space_before_the_word_is_passed_over() -> None:
    body = says("yes", ("yes", 0.9), ("no", 0.1))
    content = body["choices"][0]["logprobs"]["content"]
    content.insert(0, {"token": "\n", "logprob": 0.0, "top_logprobs": []})
    assert read_probability(body) == pytest.approx(0.9)


# --- a server


def test_every_label_is_asked_about_and_one_alone_has_its_opposite() -> None:
    seen: list[dict[str, Any]] = []

    def handle(body: dict[str, Any]) -> httpx.Response:
        seen.append(body)
        return httpx.Response(200, json=says("yes", ("yes", 0.8), ("no", 0.2)))

    (one,) = answers(judge(handle), "you fool")
    assert one.probs == {"toxic": pytest.approx(0.8), "not toxic": pytest.approx(0.2)}
    (two,) = answers(judge(handle, ("rude", "long")), (Turn("user", "a"), Turn("user", "b")))
    assert two.probs == {"rude": pytest.approx(0.8), "long": pytest.approx(0.8)}
    assert [("'toxic'" in one["messages"][0]["content"]) for one in seen] == [True, False, False]
    assert seen[0]["messages"][1]["content"] == "you fool" and seen[0]["model"] == "big"
    assert seen[1]["messages"][1]["content"] == "user: a\nuser: b"
    assert seen[0]["logprobs"] is True


def test_a_server_without_log_probabilities_is_asked_plainly_from_then_on() -> None:
    seen: list[bool] = []

    def handle(body: dict[str, Any]) -> httpx.Response:
        seen.append("logprobs" in body)
        return httpx.Response(400) if "logprobs" in body else httpx.Response(200, json=says("no"))

    found = answers(judge(handle, parallel=1), "a", "b", "c")
    assert [one.probs for one in found] == [{"toxic": 0.0, "not toxic": 1.0}] * 3
    assert seen == [True, False, False, False]


def test_a_row_that_is_refused_fails_alone() -> None:
    def handle(body: dict[str, Any]) -> httpx.Response:
        text = body["messages"][1]["content"]
        if text == "long":
            return httpx.Response(413)
        return httpx.Response(200, json=says("well" if text == "odd" else "yes"))

    found = answers(judge(handle), "a", "long", "odd")
    assert [one.probs is None for one in found] == [False, True, True]
    assert "status 413" in found[1].reason
    assert found[2].reason == "The judge said neither yes nor no of 'toxic'."


def test_a_busy_server_is_asked_again() -> None:
    seen: list[int] = []

    def handle(_: dict[str, Any]) -> httpx.Response:
        seen.append(1)
        return httpx.Response(503) if len(seen) < 3 else httpx.Response(200, json=says("yes"))

    (one,) = answers(judge(handle), "a")
    assert one.probs is not None and len(seen) == 3


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_would_refuse_every_row_ends_it(status: int) -> None:
    with pytest.raises(UpstreamError, match=f"status {status}"):
        answers(judge(lambda _: httpx.Response(status)), "a", "b")


def test_a_server_that_is_not_there_ends_it() -> None:
    def gone(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no", request=request)

    lost = ServerJudge(SERVER, ["x"], transport=httpx.MockTransport(gone), pause_seconds=0.0)
    with pytest.raises(UpstreamError, match="ConnectError"):
        answers(lost, "a")


def test_labels_are_named_once_and_there() -> None:
    for labels in ([], ["a", "a"]):
        with pytest.raises(ConfigError):
            ServerJudge(SERVER, labels)


def test_another_question_is_another_judge() -> None:
    keys = {
        ServerJudge(server, labels).key
        for server in (SERVER, SERVER.model_copy(update={"question": "Is it {label}?"}))
        for labels in (["a"], ["b"])
    }
    assert len(keys) == 4


# --- a probe


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel(FakeBackend())


@pytest.fixture(scope="module")
def artefact(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    texts = [("lovely day {}" if n % 2 else "awful mess {}").format(n) for n in range(40)]
    rows = Rows.of(texts, ["fine" if n % 2 else "poor" for n in range(40)], "memory")
    settings = FitSettings(train=TrainSettings(epochs=1))
    work = tmp_path_factory.mktemp("work")
    (one,) = fit(model, rows, None, [ProbeConfig()], work, settings, say=lambda _: None)
    return one.artefact


def test_a_probe_says_what_it_says_elsewhere(model: LanguageModel, artefact: Artefact) -> None:
    texts = ["lovely day", "x" * 900, "awful"] * 40
    found = answers(ProbeJudge(model, artefact), *texts)
    assert [one.place for one in found] == [*range(120)]
    (wanted,) = model.score(["awful"], [artefact])
    assert found[119].probs == pytest.approx(wanted["gate"].probs, abs=1e-6)
    assert found[1].probs is None and "tokens" in found[1].reason
    one_label = ProbeJudge(model, artefact, ["poor"])
    (said,) = answers(one_label, "awful")
    assert set(said.probs or {}) == {"poor", "not poor"}
    assert one_label.key != ProbeJudge(model, artefact).key


def test_a_probe_of_another_model_or_label_is_refused(
    model: LanguageModel, artefact: Artefact
) -> None:
    with pytest.raises(ConfigError, match="Unknown label of the judge 'bad'"):
        ProbeJudge(model, artefact, ["bad"])
    other = LanguageModel(FakeBackend(num_layers=2))
    with pytest.raises(MismatchError):
        ProbeJudge(other, artefact)


# --- a classifier


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a tiny classifier of transformers."""
    from transformers import BertConfig, BertForSequenceClassification

    def make(*labels: str, **more: Any) -> Path:
        tokenizer = tiny_tokenizer()
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=32,
            id2label=dict(enumerate(labels)),
            label2id={label: n for n, label in enumerate(labels)},
            **more,
        )
        BertForSequenceClassification(config).save_pretrained(tmp_path / "c")
        tokenizer.save_pretrained(tmp_path / "c")
        return tmp_path / "c"

    return make


def test_a_classifier_says_its_softmax(folder: Callable[..., Path]) -> None:
    place = folder("fine", "poor", "odd")
    short, long = answers(ClassifierJudge(str(place)), "a day", "x " * 200)
    assert sum((short.probs or {}).values()) == pytest.approx(1)
    assert list(short.probs or {}) == ["fine", "poor", "odd"]
    assert long.probs is None and "the classifier takes 32" in long.reason
    (two,) = answers(ClassifierJudge(str(place), ["odd", "fine"]), "a day")
    assert two.probs == {name: (short.probs or {})[name] for name in ("odd", "fine")}


def test_a_classifier_trained_anew_in_the_same_folder_is_another_judge(
    folder: Callable[..., Path],
) -> None:
    """What the one before had said of a text was taken for its answer."""
    place = str(folder("fine", "poor"))
    before, again = ClassifierJudge(place), ClassifierJudge(place)
    assert before.key == again.key
    folder("fine", "poor")  # other weights, the same name and shape
    after = ClassifierJudge(place)
    assert answers(before, "a day") != answers(after, "a day") and before.key != after.key
    tokenizer = after.tokenizer
    tokenizer.add_tokens(["day"])
    tokenizer.save_pretrained(place)
    assert ClassifierJudge(place).key != after.key


def test_a_classifier_of_several_labels_says_each_by_itself(folder: Callable[..., Path]) -> None:
    place = folder("a", "b", "c", problem_type="multi_label_classification")
    (one,) = answers(ClassifierJudge(str(place)), "a day")
    assert sum((one.probs or {}).values()) > 1.1


def test_what_gives_numbers_is_no_judge(folder: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="gives numbers and no labels"):
        ClassifierJudge(str(folder("score", problem_type="regression")))


# --- many texts


class Counting(Judge):
    """Says the length of a text; stops where it is told to."""

    labels, key = ("long",), "k" * 64

    def __init__(self, stop: int | None = None) -> None:
        self.asked, self.stop = list[Text](), stop

    def ask(self, texts: Sequence[Text]) -> Iterator[JudgeAnswer]:
        for place, text in enumerate(texts):
            if place == self.stop:
                raise KeyboardInterrupt
            self.asked.append(text)
            bad = text == "bad"
            yield JudgeAnswer(
                place, None if bad else {"long": len(text) / 10}, "It is bad." if bad else ""
            )


def test_what_was_said_is_not_asked_again(tmp_path: Path) -> None:
    first = Counting(stop=2)
    texts = ["a", "bb", "ccc", None, "a", "bad"]
    with pytest.raises(Interrupted, match="run the same command again"):
        label_texts(first, texts, Journal(tmp_path, first.key))
    again = Counting()
    found = label_texts(again, texts, Journal(tmp_path, again.key))
    assert (first.asked, again.asked) == (["a", "bb"], ["ccc", "bad"])
    probs = [one and one.probs for one in found]
    assert probs == [{"long": 0.1}, {"long": 0.2}, {"long": 0.3}, None, {"long": 0.1}, None]
    assert [one.place for one in found if one] == [0, 1, 2, 4, 5]
    last = Counting()
    label_texts(last, texts, Journal(tmp_path, last.key))
    assert last.asked == ["bad"]  # what failed is asked again


def test_a_line_that_a_crash_cut_off_is_asked_again(tmp_path: Path) -> None:
    one = Counting()
    label_texts(one, ["a", "bb"], Journal(tmp_path, one.key))
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text()[:-5])
    two = Counting()
    label_texts(two, ["a", "bb", "ccc"], Journal(tmp_path, two.key))
    assert two.asked == ["bb", "ccc"]
    three = Counting()
    label_texts(three, ["a", "bb", "ccc"], Journal(tmp_path, three.key))
    assert three.asked == []


def test_the_journal_holds_no_text(tmp_path: Path) -> None:
    one = Counting()
    label_texts(one, ["secret"], Journal(tmp_path, one.key))
    assert "secret" not in next(tmp_path.iterdir()).read_text()
