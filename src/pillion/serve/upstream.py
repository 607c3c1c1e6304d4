"""Other servers: judges that are asked, upstreams that answer instead. The only outgoing requests.

What is sent comes from pure functions. Knows no verdicts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any, cast

import httpx

from pillion.core.lines import is_json
from pillion.errors import ConfigError, RunError
from pillion.policies import JudgeReply, JudgeServer, Policies, Upstream, api_key

LOGPROBS = {"logprobs": True, "top_logprobs": 20}
"""Asks for the words that a judge might have begun with; 20 is OpenAI's most."""
_YES_OR_NO = re.compile(r"[\s\"'*]*(yes|no)(?![\w/])", re.IGNORECASE)
"""Quotes and stars stand around a word that is set off."""


class UpstreamError(RunError):
    """Another server could not be reached, or did not answer as it should.

    Attributes:
        lasting: whether the next request would fail too: no server, or a key that is refused.
        may_pass: whether the same request may be answered a little later.
    """

    def __init__(self, message: str, *, lasting: bool = False, may_pass: bool = False) -> None:
        super().__init__(message)
        self.lasting, self.may_pass = lasting, may_pass


class NoObject(ValueError):
    """What another server has sent is no JSON object."""


class Upstreams:
    """The servers that a file of policies names.

    Args:
        policies: the file.
        transport: in the place of the network, for tests.

    Raises:
        ConfigError: the URL of one is none, or its key is not in the environment.
    """

    def __init__(
        self, policies: Policies, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.upstreams, self.judges = policies.upstreams, policies.judges
        servers = [*self.upstreams.values(), *self.judges.values()]
        for server in servers:
            _check_url(server.url)
        self._headers = {server: _headers(api_key(server)) for server in servers}
        self._plain = set[str]()  # judges that refuse a request for log-probabilities
        self._client = httpx.AsyncClient(transport=transport, follow_redirects=False)

    async def close(self) -> None:
        """Closes the connections to other servers."""
        await self._client.aclose()

    async def ask(self, name: str, label: str, text: str) -> JudgeReply:
        """Whether a label applies to a text, by a judge; `failed` if it does not say."""
        judge = self.judges[name]
        try:
            answer = await self._judged(judge, judge_request(judge, label, text))
            answer.raise_for_status()
            return read_answer(_parsed(answer.content))
        except (httpx.HTTPError, ValueError):
            return "failed"

    async def probability(self, name: str, label: str, text: str) -> float | None:
        """How probable a judge finds it that a label applies to a text.

        By the log-probabilities of its first word where it gives them, else 1 for yes and 0 for no;
        None if it says neither.

        Raises:
            UpstreamError: it could not be reached, or refused.
        """
        judge = self.judges[name]
        asked = judge_request(judge, label, text)
        try:
            if name not in self._plain:
                answer = await self._judged(judge, {**asked, **LOGPROBS})
                if answer.status_code not in (400, 422):
                    answer.raise_for_status()
                    return read_probability(_parsed(answer.content))
            answer = await self._judged(judge, asked)
            answer.raise_for_status()
            self._plain.add(name)
            return read_probability(_parsed(answer.content))
        except (httpx.HTTPError, ValueError) as error:
            status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 0
            raise UpstreamError(
                f"Judge {judge.url} did not answer ({_brief(error)}).",
                lasting=isinstance(error, httpx.ConnectError) or status in (401, 403, 404),
                may_pass=isinstance(error, httpx.TransportError)
                or status in (429, *range(500, 600)),
            ) from error

    async def _judged(self, judge: JudgeServer, body: Mapping[str, Any]) -> httpx.Response:
        return await self._client.post(
            f"{judge.url.rstrip('/')}/chat/completions",
            json=body,
            headers=self._headers[judge],
            timeout=judge.seconds,
        )

    async def post(self, name: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of an upstream to a body of ours.

        Raises:
            UpstreamError: it could not be reached, or refused.
        """
        server = self.upstreams[name]
        try:
            answer = await self._client.post(
                f"{server.url.rstrip('/')}{path}",
                json=upstream_request(server, body),
                headers=self._headers[server],
                timeout=server.seconds,
            )
            answer.raise_for_status()
            content = _sendable(answer.content)
        except (httpx.HTTPError, ValueError) as error:
            raise UpstreamError(f"Upstream {name!r} did not answer ({_brief(error)}).") from error
        return content

    async def stream(
        self, name: str, path: str, body: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any]]:
        """The chunks of an upstream's answer to a body of ours, which is whole where they end.

        Raises:
            UpstreamError: it could not be reached, refused, or broke off.
        """
        server, whole = self.upstreams[name], False
        try:
            async with self._client.stream(
                "POST",
                f"{server.url.rstrip('/')}{path}",
                json=upstream_request(server, body),
                headers=self._headers[server],
                timeout=server.seconds,
            ) as answer:
                answer.raise_for_status()
                async for line in answer.aiter_lines():
                    data = line.removeprefix("data:").strip()
                    whole = whole or (line.startswith("data:") and data == "[DONE]")
                    if line.startswith("data:") and data != "[DONE]":
                        yield _sendable(data)
        except (httpx.HTTPError, ValueError) as error:
            raise UpstreamError(f"Upstream {name!r} did not answer ({_brief(error)}).") from error
        if not whole:
            raise UpstreamError(f"Upstream {name!r} broke off before the end of its answer.")


def judge_request(judge: JudgeServer, label: str, text: str) -> dict[str, Any]:
    """What a judge is sent."""
    return {
        "model": judge.model,
        "messages": [
            {"role": "system", "content": judge.question.replace("{label}", label)},
            {"role": "user", "content": text},
        ],
        "max_tokens": judge.max_tokens,
        "temperature": 0,
    }


def read_answer(body: Any) -> JudgeReply:
    """The first word of a judge's answer: yes or no; `Not sure` and `Nothing` are neither."""
    try:
        said = str(body["choices"][0]["message"]["content"])
    except (KeyError, IndexError, TypeError):
        return "failed"
    found = _YES_OR_NO.match(said)
    return "failed" if found is None else cast("JudgeReply", found[1].lower())


def read_probability(body: Any) -> float | None:
    """What a judge's answer makes of yes against no; None if it is neither."""
    said = read_answer(body)
    if said == "failed":
        return None
    chances = {"yes": 0.0, "no": 0.0}
    for word, logprob in _first_words(body):
        if word in chances:
            chances[word] += math.exp(logprob)
    if not chances[said]:  # no log-probabilities, or its first token is a piece of the word
        return float(said == "yes")
    return chances["yes"] / (chances["yes"] + chances["no"])


def _first_words(body: Any) -> list[tuple[str, float]]:
    """The tokens that a judge may have begun with, and their log-probabilities."""
    try:
        tokens = body["choices"][0]["logprobs"]["content"]
        first = next(one for one in tokens if one["token"].strip())
        listed = first.get("top_logprobs") or [first]
        found = [(_word(one["token"]), min(float(one["logprob"]), 0.0)) for one in listed]
    except (LookupError, TypeError, ArithmeticError, ValueError, AttributeError, StopIteration):
        return []
    return [] if any(math.isnan(logprob) for _, logprob in found) else found


def _word(token: str) -> str:
    return token.strip(" \n\t.,!\"'*▁Ġ").lower()


def upstream_request(server: Upstream, body: Mapping[str, Any]) -> dict[str, Any]:
    """A client's body, for another server's model."""
    return {**body, "model": server.model}


def _parsed(content: str | bytes) -> Any:
    """The JSON that another server has sent.

    Raises:
        ValueError: it is none, or lies too deep.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise NoObject("no JSON object") from error


def _sendable(content: str | bytes) -> dict[str, Any]:
    """An object that another server has sent, as it can be sent on.

    Raises:
        ValueError: it is none.
    """
    found = _parsed(content)
    if not isinstance(found, dict) or not is_json(found):
        raise NoObject("no JSON object")
    return found


def _check_url(url: str) -> None:
    """Returns if requests can be sent there.

    Raises:
        ConfigError: no client could.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{url!a} is no URL ({error}); write one, as http://host/v1.") from error
    if not parsed.host or not 0 < (parsed.port or 1) < 2**16:
        raise ConfigError(f"{url!a} has no such host and port; write a URL, as http://host/v1.")


def _headers(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _brief(error: Exception) -> str:
    if isinstance(error, NoObject):
        return str(error)
    if isinstance(error, httpx.HTTPStatusError):
        return f"status {error.response.status_code}"
    return type(error).__name__
