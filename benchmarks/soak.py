"""A server under mixed load for a long time: nothing is lost, mixed up, or kept in memory.

    python -m benchmarks.soak                     ten minutes on the embedded model
    python -m benchmarks.soak --seconds 1800      longer
    python -m benchmarks.soak --seconds 60 --texts 8 --tokens 6     what fits into two minutes

Answers whole and in streams, completions, classifications and moderations, from clients of which
some hang up, some send what is no request, and one swaps a probe. Every verdict is compared with
that of the same text alone. Among them are attacks (`benchmarks/attacks.py`). Memory is the
server's resident set, five times a second. Health is asked as often by a process of its own: the
clients' own loop would add its waits.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.attacks import ATTACKS
from benchmarks.result_file import as_results, write_result
from pillion.examples import load_example
from pillion.probe import Artefact
from pillion.probe.untrained import untrained
from pillion.runtime import Generation, LanguageModel

CHAT = "/v1/chat/completions"
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
"""In probability, by the dtype that the model computes in; probes have large random weights."""
MALFORMED = (
    b"{",
    b"[" * 5000,
    b'{"model": "m", "messages": "no"}',
    b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}',
    b"\xff\xfe\x00",
)
MIX = {
    "chat": 28,
    "stream": 28,
    "completion": 8,
    "classify": 10,
    "moderation": 10,
    "hang_up": 8,
    "malformed": 6,
    "swap": 2,
    "numbers": 4,
    "bodies": 4,
    "work": 1,
}
"""Kinds of requests, and how often they come."""


@dataclass
class Known:
    """What every text's verdicts are, computed alone.

    Attributes:
        answers: text -> its answer, with the steady probe's verdicts on both.
        scores: text -> probability of `yes` by the steady probe and both versions of the other.
        tolerance: in probability.
    """

    answers: dict[str, Generation]
    scores: dict[str, tuple[float, ...]]
    tolerance: float


@dataclass
class Seen:
    """What came back.

    Attributes:
        statuses: (kind, status) -> how often.
        faults: what must not have happened.
        differences: largest difference to the verdicts of the texts alone, by part.
        same_text: answers that were, token for token, those of the text alone.
        memory: the server's resident bytes, five times a second.
        health: seconds until health was answered, as often; 0 where it failed.
    """

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    differences: dict[str, float] = field(default_factory=dict)
    verdicts: int = 0
    same_text: int = 0
    memory: list[int] = field(default_factory=list)
    health: list[float] = field(default_factory=list)

    def compare(self, part: str, got: float, wanted: tuple[float, ...], tolerance: float) -> None:
        """A probability must be one of those wanted."""
        self.verdicts += 1
        off = min(abs(got - one) for one in wanted)
        self.differences[part] = max(self.differences.get(part, 0.0), off)
        if off > tolerance:
            self.faults.append(f"{part}: {got} instead of {wanted}")


def random_probe(lm: LanguageModel, name: str, seed: int) -> Artefact:
    """A probe with weights large enough that every text has a score of its own."""
    return untrained(name, lm.backend.identity, noise=seed, template="chat", seed=seed)


def prepare(model: str, dtype: str, folder: Path, texts: list[str], tokens: int) -> Known:
    """Saves the probes, and computes what the server must say."""
    lm = LanguageModel.load(model, dtype)
    probes = [random_probe(lm, name, seed) for seed, name in enumerate(("steady", "one", "two"))]
    for one in probes:
        one.save(folder / one.name)
    rows = lm.score(texts, probes)
    scores = {
        text: tuple(row[one.name].probs["yes"] for one in probes)
        for text, row in zip(texts, rows, strict=True)
    }
    answers = {text: lm.generate(text, probes[:1], tokens) for text in texts}
    return Known(answers, scores, TOLERANCE[str(lm.backend.dtype).removeprefix("torch.")])


class Client:
    """Sends one kind of request after the other, and checks what comes back."""

    def __init__(self, url: str, known: Known, seen: Seen, tokens: int, seed: int) -> None:
        # Longer than the server's own limit: it is for the server to say that it took too long.
        self.http = httpx.AsyncClient(base_url=url, timeout=330)
        self.known, self.seen, self.tokens = known, seen, tokens
        self.random = random.Random(seed)
        self.texts = list(known.scores)

    async def run(self, until: float) -> None:
        """Sends until the time is over."""
        kinds, weights = list(MIX), list(MIX.values())
        async with self.http:
            while time.monotonic() < until:
                kind = self.random.choices(kinds, weights)[0]
                text = self.random.choice(self.texts)
                try:
                    await getattr(self, kind)(text)
                except (httpx.HTTPError, KeyError, ValueError) as error:
                    self.seen.faults.append(f"{kind}: {type(error).__name__} {error}")

    async def chat(self, text: str) -> None:
        """Asks for a whole answer, and checks its verdicts."""
        answer = await self._post("chat", CHAT, self._body(text))
        if answer is not None:
            self._check(text, answer["verdicts"], answer["choices"][0]["message"]["content"])

    async def stream(self, text: str) -> None:
        """An answer in pieces."""
        verdicts, said, done = dict[str, Any](), "", False
        async with self.http.stream("POST", CHAT, json=self._body(text, stream=True)) as answer:
            self.seen.statuses["stream", answer.status_code] += 1
            if answer.status_code != 200:
                return
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line.removeprefix("data: "))
                    verdicts |= chunk["verdicts"]
                    said += chunk["choices"][0]["delta"].get("content") or ""
                done |= line == "data: [DONE]"
        if not done:
            self.seen.faults.append("a stream broke off")
        self._check(text, verdicts, said)

    async def completion(self, text: str) -> None:
        """Two answers to a text as it is."""
        body = {"model": "m", "prompt": text, "max_tokens": self.tokens, "n": 2}
        answer = await self._post("completion", "/v1/completions", body)
        if answer is not None and len(answer["choices"]) != 2:
            self.seen.faults.append("a choice was lost")

    async def classify(self, _: str) -> None:
        """Verdicts on four texts."""
        texts = self.random.sample(self.texts, 4)
        answer = await self._post("classify", "/v1/classify", {"input": texts})
        for text, row in zip(texts, answer["data"] if answer else (), strict=bool(answer)):
            self._compare("classify", text, row["verdicts"])

    async def moderation(self, text: str) -> None:
        """A verdict in OpenAI's shape."""
        body = {"input": text, "model": "steady"}
        answer = await self._post("moderation", "/v1/moderations", body)
        if answer is not None:
            got = answer["results"][0]["category_scores"]["yes"]
            wanted = self.known.scores[text][:1]
            self.seen.compare("moderation", got, wanted, self.known.tolerance)

    async def hang_up(self, text: str) -> None:
        """Asks, and goes away in the middle."""
        body = self._body(text, stream=self.random.random() < 0.5)
        wait = self.random.random() * 0.5
        try:
            async with asyncio.timeout(wait), self.http.stream("POST", CHAT, json=body) as answer:
                async for _ in answer.aiter_lines():
                    if self.random.random() < 0.2:
                        break
        except TimeoutError:
            pass
        self.seen.statuses["hang_up", 0] += 1

    async def malformed(self, _: str) -> None:
        """Sends what is no request."""
        body = self.random.choice(MALFORMED)
        answer = await self.http.post(
            CHAT, content=body, headers={"Content-Type": "application/json"}
        )
        self.seen.statuses["malformed", answer.status_code] += 1
        if answer.status_code != 400 or "error" not in answer.json():
            self.seen.faults.append(f"malformed: {answer.status_code}")

    async def numbers(self, _: str) -> None:
        """Sends a number at the edge of what there is."""
        await self._attack("numbers")

    async def bodies(self, _: str) -> None:
        """Sends a body that takes long to read."""
        await self._attack("bodies")

    async def work(self, _: str) -> None:
        """Sends more to read than a step takes."""
        await self._attack("work")

    async def _attack(self, kind: str) -> None:
        path, body, fine = self.random.choice(ATTACKS[kind])
        headers = {"Content-Type": "application/json"}
        try:
            answer = await self.http.post(path, content=body, headers=headers)
        except (httpx.ReadError, httpx.WriteError):
            if kind != "bodies":
                raise
            self.seen.statuses[kind, 0] += 1  # refused before all of it was sent
            return
        self.seen.statuses[kind, answer.status_code] += 1
        if answer.status_code not in fine:
            self.seen.faults.append(f"{kind}: {answer.status_code} {answer.text[:200]}")

    async def swap(self, _: str) -> None:
        """Puts one version of the probe in the place of the other."""
        body = {"path": self.random.choice(("one", "two"))}
        answer = await self.http.put("/v1/probes/other", json=body)
        self.seen.statuses["swap", answer.status_code] += 1

    def _body(self, text: str, **facts: Any) -> dict[str, Any]:
        turns = [{"role": "user", "content": text}]
        limits = {"max_tokens": self.tokens, "temperature": 0}
        return {"model": "m", "messages": turns, **limits, **facts}

    async def _post(self, kind: str, path: str, body: dict[str, Any]) -> Any:
        answer = await self.http.post(path, json=body)
        self.seen.statuses[kind, answer.status_code] += 1
        if answer.status_code in {200, 429}:
            return answer.json() if answer.status_code == 200 else None
        self.seen.faults.append(f"{kind}: {answer.status_code} {answer.text}")
        return None

    def _check(self, text: str, verdicts: dict[str, Any], said: str) -> None:
        self._compare("prompt", text, verdicts["prompt"])
        alone = self.known.answers[text]
        if set(verdicts["response"]) != {"steady", "other"}:
            self.seen.faults.append(f"response verdicts: {sorted(verdicts['response'])}")
        elif said == alone.text:
            # In bf16 another batch may draw another token; the verdict is then of another text.
            self.seen.same_text += 1
            got = verdicts["response"]["steady"]["probs"]["yes"]
            wanted = (alone.response["steady"].probs["yes"],)
            self.seen.compare("response", got, wanted, self.known.tolerance)

    def _compare(self, part: str, text: str, verdicts: dict[str, Any]) -> None:
        steady, *versions = self.known.scores[text]
        for name, wanted in (("steady", (steady,)), ("other", tuple(versions))):
            got = verdicts[name]["probs"]["yes"]
            self.seen.compare(part, got, wanted, self.known.tolerance)


def ask_health(url: str, seconds: float) -> list[float]:
    """Seconds until health was answered, five times a second; 0 where it was another answer."""
    until, took = time.monotonic() + seconds, list[float]()
    with httpx.Client(base_url=url, timeout=60) as http:
        while time.monotonic() < until:
            time.sleep(0.2)
            begin = time.perf_counter()
            fine = http.get("/health").status_code == 200
            took.append(fine * (time.perf_counter() - begin))
    return took


async def load(url: str, process: psutil.Process, known: Known, options: Any) -> Seen:
    """The whole time, and how much memory the server takes meanwhile."""
    seen, until = Seen(), time.monotonic() + options.seconds
    clients = [Client(url, known, seen, options.tokens, i) for i in range(options.clients)]
    with ProcessPoolExecutor(1, get_context("spawn")) as aside:
        asking = asyncio.get_running_loop().run_in_executor(aside, ask_health, url, options.seconds)
        working = [asyncio.ensure_future(client.run(until)) for client in clients]
        while time.monotonic() < until:
            await asyncio.sleep(0.2)
            seen.memory.append(process.memory_info().rss)
        await asyncio.gather(*working)
        seen.health = await asking
    if not all(seen.health):
        seen.faults.append("health failed")
    return seen


def start(folder: Path, options: Any) -> tuple[subprocess.Popen[str], str]:
    """The server, and its address."""
    command = [sys.executable, "-W", "ignore", "-m", "pillion", "serve", "--json", "--port", "0"]
    command += ["--model", options.model, "--dtype", options.dtype, "--name", "m"]
    command += ["--probe", f"{folder / 'steady'}", "--probe", f"other={folder / 'one'}"]
    command += ["--probe-folder", str(folder)]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    for _ in range(600):
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                break
        except httpx.TransportError:
            time.sleep(0.1)
    return process, url


def rows(seen: Seen, seconds: float, known: Known, log: list[Any]) -> list[dict[str, Any]]:
    """The numbers for the result file."""
    third = len(seen.memory) // 3
    middle = statistics.mean(seen.memory[third : 2 * third])
    last = statistics.mean(seen.memory[2 * third :])
    failures = sum(line["event"] == "failure" for line in log)
    server = sum(n for (_, status), n in seen.statuses.items() if status >= 500)
    values = {
        "requests": (sum(seen.statuses.values()), None),
        "requests_per_second": (sum(seen.statuses.values()) / seconds, None),
        "server_errors": (server + failures, 0),
        "faults": (len(seen.faults), 0),
        "verdicts_compared": (seen.verdicts, None),
        "answers_with_the_text_of_the_prompt_alone": (seen.same_text, None),
        **{
            f"largest_difference_{part}": (off, known.tolerance)
            for part, off in seen.differences.items()
        },
        "memory_last_third_bytes": (last, middle),
        "median_health_seconds": (statistics.median(seen.health), None),
        "worst_health_seconds": (max(seen.health), 0.3),
    }
    return as_results(values)


def by_minute(memory: list[int], seconds: float) -> list[int]:
    """Median of each minute, in MB: whether memory grows, or has come to where it stays."""
    size = max(1, round(len(memory) * 60 / seconds))
    return [
        round(statistics.median(memory[i : i + size]) / 1e6) for i in range(0, len(memory), size)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--texts", type=int, default=64)
    options = parser.parse_args()
    texts = list(load_example("intent", "train").texts[: options.texts])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known = prepare(options.model, options.dtype, folder, texts, options.tokens)
        process, url = start(folder, options)
        try:
            seen = asyncio.run(load(url, psutil.Process(process.pid), known, options))
            left = httpx.get(f"{url}/metrics").text
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        log = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    if "pillion_running 0.0" not in left or process.returncode != 0:
        seen.faults.append("the engine was not free at the end, or the server did not end well")
    results = rows(seen, options.seconds, known, log)
    for row in results:
        print({k: row[k] for k in ("metric", "value", "baseline", "ratio")})
    for fault, count in Counter(seen.faults).most_common(10):
        print(count, fault, file=sys.stderr)
    statuses = {f"{kind} {status}": n for (kind, status), n in sorted(seen.statuses.items())}
    print(statuses)
    settings = vars(options) | {"mix": MIX, "statuses": statuses}
    settings["megabytes_by_minute"] = by_minute(seen.memory, options.seconds)
    write_result(f"soak-{options.model}", results, seed=0, settings=settings)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
