"""`/v1/explain`: what each token and layer of a text or conversation added to a label's logit."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from pillion.core import Text, Tokens, absent
from pillion.errors import PillionError
from pillion.runtime import Explanation
from pillion.serve.body import BodyRoute
from pillion.serve.classify import check_rows, require_probes
from pillion.serve.refusal import Refused, refusal_of
from pillion.serve.request_context import RequestContext, context_of
from pillion.serve.requests import ExplainRequest
from pillion.serve.service import Service
from pillion.serve.streaming import until_gone
from pillion.serve.turns import encode_text, num_chars, turns_of


def explain_routes(service: Service) -> APIRouter:
    """`POST /v1/explain`, as a router."""
    routes = APIRouter(route_class=BodyRoute)

    @routes.post("/v1/explain")
    async def explain(body: ExplainRequest, request: Request) -> JSONResponse:
        """A probe's verdict taken apart: layers by tokens of a text or conversation."""
        service.check_model(body.model)
        wanted = None if body.probe is None else [body.probe]
        name = require_probes(service, wanted, "probe")[0]
        known = service.engine.probes[name].card.labels
        if body.label is not None and body.label not in known:
            raise Refused(
                400,
                f"Probe {name!r} has no label {body.label[:80]!r}; known: {', '.join(known)}.",
                "invalid_value",
                "label",
            )
        context = context_of(request.scope)
        found = await until_gone(request, _read(service, context, body, name))
        context.account.spend(len(found.token_ids))
        context.facts["text_verdicts"] = {name: Counter(found.verdict.labels)}
        return JSONResponse(_told(service, found, body.label))

    return routes


async def _read(
    service: Service, context: RequestContext, body: ExplainRequest, name: str
) -> Explanation:
    codec = service.engine.codec
    text: Text = body.input if body.input is not None else turns_of(body.messages or (), codec)
    service.check_chars([num_chars(text)], "input")
    template = body.template or service.engine.probes[name].card.template
    try:
        with service.queue():
            async with asyncio.timeout(context.seconds_left):
                tokens = await service.encode(
                    lambda: encode_text(service.engine, text, template), num_chars(text)
                )
                _check(service, tokens, name)
                return await service.engine.explain(tokens, name)
    except TimeoutError as error:
        raise Refused(504, "The text took too long; send a shorter one.", "timeout") from error
    except PillionError as error:
        raise refusal_of(error) from error


def _check(service: Service, tokens: Tokens, name: str) -> None:
    """Returns if there is something to explain.

    Raises:
        Refused: the text is too long, or holds no word that the probe reads.
    """
    check_rows(service, [tokens])
    why = absent(tokens, service.engine.probes[name].card.scope)
    if why is not None:
        raise Refused(400, f"Probe {name!r} has nothing to read: {why}.", "invalid_value", "probe")


def _told(service: Service, found: Explanation, label: str | None) -> dict[str, Any]:
    """Contributions to a label, without one to the decided label or the likeliest."""
    decided = (*found.verdict.labels, max(found.verdict.probs, key=found.verdict.probs.__getitem__))
    chosen = label or decided[0]
    return {
        "object": "explanation",
        "model": service.names[0],
        "probe": found.verdict.probe,
        "label": chosen,
        "prob": found.verdict.probs[chosen],
        "method": found.method,
        "tokens": list(found.tokens),
        "segments": [asdict(segment) for segment in found.segments],
        "layers": list(found.layers),
        "contributions": found.to(chosen).round(6).tolist(),
    }
