# pyright: reportMissingImports=false
"""`POST /classify` of a `vllm serve` that generates: verdicts on texts, in vLLM's own shape.

vLLM has the route where it serves a classifier; here a probe is one.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from itertools import count
from typing import Any

from pydantic import ValidationError

from pillion.backends.codec import Codec
from pillion.core import (
    SCOPES,
    Text,
    Tokens,
    Verdict,
    absences,
    as_conversation,
    classification_json,
)
from pillion.core.strict import UNKNOWN, Strict, first_fault
from pillion.errors import ConfigError, DataError, unknown_name
from pillion.probe import Artefact
from pillion.riding.latest_logits import KEY
from pillion.riding.metrics import count_verdicts
from pillion.riding.report import LogitsByProbe
from pillion.riding.request_verdicts import REQUEST_VERDICTS
from pillion.riding.turns import TURNS, turns_args
from pillion.riding.verdicts import verdicts_by_name
from pillion.runtime.encoding import tokens_of
from pillion.runtime.engine import check_rows


class ClassifyBody(Strict):
    """What to classify: texts, or a conversation; `model` is the name of a probe."""

    model: str | None = None
    input: str | tuple[str, ...] | None = None
    messages: tuple[Mapping[str, Any], ...] | None = None
    user: str | None = None

    @classmethod
    def of(cls, content: bytes) -> ClassifyBody:
        """The body of a request.

        Raises:
            DataError: it is not what is wanted.
        """
        try:
            body = cls.model_validate_json(content)
        except ValidationError as error:
            fault = first_fault(error)
            where = fault.field or "The body"
            if fault.kind == UNKNOWN:
                raise unknown_name("parameter", where, cls.model_fields) from error
            wanted = "give input (a string or strings) or messages (a conversation)"
            raise DataError(f"{where}: {fault.message}; {wanted}.") from error
        if (body.input is None) == (body.messages is None):
            raise DataError("Give input (texts) or messages (a conversation), one of the two.")
        return body

    def texts(self) -> Sequence[Text]:
        """The texts, or the conversation, to classify."""
        if self.messages is not None:
            return [as_conversation(list(self.messages))]
        assert self.input is not None
        return [self.input] if isinstance(self.input, str) else self.input


class TextClassifier:
    """Reads texts with the probes that ride.

    Args:
        engine: vLLM's.
        codec: of the model, for this alone.
        probes: that ride.
        names: of the model.
        sizes: tokens that the model takes, and below what its token ids are.
    """

    def __init__(
        self,
        engine: Any,
        codec: Codec,
        probes: Sequence[Artefact],
        names: Sequence[str],
        sizes: tuple[int, int],
    ) -> None:
        self._engine, self._codec, self._names = engine, codec, names
        self._probes = {probe.name: probe for probe in probes}
        self._sizes, self._serial = sizes, count()

    async def answer(self, content: bytes) -> dict[str, Any]:
        """The body of an answer.

        Args:
            content: of the request.

        Raises:
            ConfigError: no probe of that name, or several to choose from.
            DataError: a body, text or conversation that cannot be read.
        """
        body = ClassifyBody.of(content)
        probe = self._chosen(body.model)
        texts, way = body.texts(), probe.card.template
        rows = await asyncio.to_thread(lambda: [tokens_of(self._codec, t, way) for t in texts])
        most, vocab = self._sizes
        # vLLM has no pass without a sampled token, which needs a place as well.
        check_rows(rows, most - 1, vocab)
        # What is read here is for no other route to tell.
        token = REQUEST_VERDICTS.set(None)
        try:
            verdicts = await asyncio.gather(*(self._verdict(probe, row) for row in rows))
        finally:
            REQUEST_VERDICTS.reset(token)
        for verdict in verdicts:
            count_verdicts("text", {probe.name: verdict})
        return classification_json(uuid.uuid4().hex, probe.name, verdicts, sum(map(len, rows)))

    def _chosen(self, name: str | None) -> Artefact:
        if name in self._probes:
            return self._probes[name]
        if name is not None and name not in self._names:
            raise unknown_name("probe", name, self._probes)
        if len(self._probes) > 1:
            listed = ", ".join(self._probes)
            raise ConfigError(f"Which of the probes {listed} is meant? Name it as the model.")
        return next(iter(self._probes.values()))

    async def _verdict(self, probe: Artefact, row: Tokens) -> Verdict:
        numbers = await self._read(row)
        if probe.name not in numbers and row.ranges(probe.card.scope):
            # Shared blocks do not tell its words; so it is read once more by itself.
            numbers = await self._read(row, uuid.uuid4().hex)
        if (found := verdicts_by_name(numbers, [probe])).get(probe.name) is None:
            why = absences({probe.name: probe.card.scope}, {}, row, SCOPES)[probe.name]
            raise DataError(f"A text cannot be judged by {probe.name!r}: {why}.")
        return found[probe.name]

    async def _read(self, row: Tokens, salt: str = "") -> LogitsByProbe:
        from vllm import SamplingParams

        prompt: dict[str, Any] = {"prompt_token_ids": list(row), TURNS: turns_args(row, False)}
        if salt:
            prompt["cache_salt"] = salt
        params = SamplingParams(temperature=0, max_tokens=1, detokenize=False)
        numbers = LogitsByProbe()
        name = f"classify-{uuid.uuid4().hex}-{next(self._serial)}"
        async with aclosing(self._engine.generate(prompt, params, name)) as outputs:
            async for output in outputs:
                numbers = (output.kv_transfer_params or {})[KEY]["prompt"]
        return numbers
