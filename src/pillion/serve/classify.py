"""`/v1/classify`, vLLM's `/classify`, `/v1/moderations`: verdicts on texts, without an answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from pillion.backends import Coder
from pillion.core import (
    SCOPES,
    Scope,
    Template,
    Text,
    Tokens,
    Verdict,
    absences,
    classification_json,
)
from pillion.errors import PillionError
from pillion.policies import ALLOW, decide
from pillion.serve.answers import decided_verdicts
from pillion.serve.body import BodyRoute
from pillion.serve.refusal import Refused, refusal_of
from pillion.serve.request_context import RequestContext, context_of
from pillion.serve.requests import ClassificationRequest, ClassifyRequest, ModerationRequest
from pillion.serve.service import Service
from pillion.serve.streaming import until_gone
from pillion.serve.turns import encode_text, num_chars, turns_of

CATEGORIES = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening"),
    *("illicit", "illicit/violent", "self-harm", "self-harm/instructions", "self-harm/intent"),
    *("sexual", "sexual/minors", "violence", "violence/graphic"),
)
"""OpenAI's: every result has them, since clients read them by name. Those that no probe judges are
not flagged, have a score of 0, and no input type in `category_applied_input_types`."""


def classify_routes(service: Service) -> APIRouter:
    """The routes that only read."""
    routes = APIRouter(route_class=BodyRoute)

    @routes.post("/v1/classify")
    async def classify(body: ClassifyRequest, request: Request) -> JSONResponse:
        """Verdicts of many probes on many texts, in one pass a text."""
        service.check_model(body.model)
        names = require_probes(service, body.probes)
        texts = _texts(body, service.engine.codec)
        work = _read(service, context_of(request.scope), texts, names, body.template)
        rows, num_tokens = await until_gone(request, work)
        policies = service.policies.of("prompt")
        data: list[dict[str, Any]] = []
        for i, (row, missing) in enumerate(rows):
            own = [p for p in policies if p.probe in row or p.probe in missing]
            told = decided_verdicts(row, decide(own, row).decisions, service.multilabel, missing)
            data.append({"index": i, "object": "classification", "verdicts": told})
        return JSONResponse(
            {
                "id": f"classify-{context_of(request.scope).id}",
                "object": "list",
                "model": service.names[0],
                "data": data,
                "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
            }
        )

    @routes.post("/v1/moderations")
    async def moderations(body: ModerationRequest, request: Request) -> JSONResponse:
        """OpenAI's moderation of texts, by one probe."""
        name = _moderator(service, body.model)
        verdicts, _ = await _judged_by(service, name, body, request)
        results = [moderation(service, verdict) for verdict in verdicts]
        return JSONResponse(
            {"id": f"modr-{context_of(request.scope).id}", "model": name, "results": results}
        )

    @routes.post("/classify")
    async def vllm_classify(body: ClassificationRequest, request: Request) -> JSONResponse:
        """One probe's verdicts, in the shape of vLLM's route for classifiers."""
        name = _classifier(service, body.model)
        told = await _judged_by(service, name, body, request)
        return JSONResponse(classification_json(context_of(request.scope).id, name, *told))

    return routes


async def _judged_by(
    service: Service, name: str, body: ClassificationRequest | ModerationRequest, request: Request
) -> tuple[list[Verdict], int]:
    """A probe's verdict on every text, and the tokens of all of them.

    Raises:
        Refused: it has none on one of them.
    """
    texts = _texts(body, service.engine.codec)
    work = _read(service, context_of(request.scope), texts, [name], None)
    rows, num_tokens = await until_gone(request, work)
    for i, (_, missing) in enumerate(rows):
        if name in missing:
            what = f"Input {i + 1} cannot be judged by {name!r}: {missing[name]}."
            raise Refused(400, what, "invalid_value", "messages")
    return [row[name] for row, _ in rows], num_tokens


def moderation(service: Service, verdict: Verdict) -> dict[str, Any]:
    """One of OpenAI's results.

    A text is flagged for the labels that a policy on prompts waits for; without policies for the
    positive label of a binary probe, or for any label of a multi-label one.
    """
    flags = flagged(service, verdict)
    scores = dict(verdict.probs)
    judged = {label: ["text"] for label in scores}
    return {
        "flagged": any(flags.values()),
        "categories": dict.fromkeys(CATEGORIES, False) | flags,
        "category_scores": dict.fromkeys(CATEGORIES, 0.0) | scores,
        "category_applied_input_types": {c: [] for c in CATEGORIES} | judged,
    }


def flagged(service: Service, verdict: Verdict) -> dict[str, bool]:
    """Label -> whether the text is flagged for it.

    Raises:
        Refused: the settings do not say which labels of a multi-class probe are harmful.
    """
    flags, labels = dict.fromkeys(verdict.probs, False), list(verdict.probs)
    policies = [p for p in service.policies.of("prompt") if p.probe == verdict.probe and not p.asks]
    if policies:
        for policy in policies:
            label = policy.label or labels[-1]
            flags[label] |= policy.applies(verdict)
        return flags
    task = service.engine.probes[verdict.probe].card.task
    if task == "multiclass":
        raise Refused(
            400,
            f"Probe {verdict.probe!r} has {len(labels)} labels, and no policy says which are "
            "harmful; add one that annotates, or name a probe of two labels as the model.",
            "invalid_value",
            "model",
        )
    harmful = labels[-1:] if task == "binary" else labels
    return flags | {label: label in verdict.labels for label in harmful}


def require_probes(
    service: Service, names: Sequence[str] | None, param: str = "probes"
) -> list[str]:
    """The probes of these names, or all.

    Args:
        service: whose probes.
        names: None for all.
        param: what a refusal says is wrong.

    Raises:
        Refused: there is none, or none of that name.
    """
    known = service.engine.probes
    if not known:
        raise Refused(400, "No probe is loaded; load one first.", "no_probe", param)
    for name in names or ():
        if name not in known:
            raise _unknown(name, known, param)
    return list(dict.fromkeys(names or known))


def _moderator(service: Service, name: str | None) -> str:
    """The probe that moderates: by name; else the first that a policy acts by; else the first."""
    known = service.engine.probes
    # LiteLLM's blocking call sends its own name of the provider along.
    name = name.removeprefix("openai/") if name is not None else None
    if name is not None and not name.startswith(("omni-moderation", "text-moderation")):
        if name not in known:
            raise _unknown(name, known, "model")
        return name
    if not known:
        raise Refused(400, "No probe is loaded; load one first.", "no_probe", "model")
    acting = [p.probe for p in service.policies.of("prompt") if p.probe in known]
    return (acting or list(known))[0]


def _classifier(service: Service, name: str | None) -> str:
    """The probe that a client of vLLM's route means: by name, or the only one."""
    known = require_probes(service, None, "model")
    if name in known:
        return name
    if name is not None and name not in service.names:
        raise _unknown(name, known, "model")
    if len(known) > 1:
        listed = ", ".join(known)
        raise Refused(
            400, f"Which of the probes {listed} is meant? Name it as the model.", None, "model"
        )
    return known[0]


def _unknown(name: str, known: Any, param: str) -> Refused:
    listed = ", ".join(known) or "none"
    return Refused(404, f"No probe {name[:80]!r}; known: {listed}.", "probe_not_found", param)


def _texts(
    body: ClassifyRequest | ClassificationRequest | ModerationRequest, codec: Coder
) -> Sequence[Text]:
    if body.input is not None:
        return body.input
    return [turns_of(messages, codec) for messages in body.messages or ()]


Judged = tuple[dict[str, Verdict], dict[str, str]]
"""Probe -> verdict, and of those without one probe -> the reason."""


async def _read(
    service: Service,
    context: RequestContext,
    texts: Sequence[Text],
    names: Sequence[str],
    template: Template | None,
) -> tuple[list[Judged], int]:
    """What the probes say of each text, and how many tokens were read.

    Probes that were trained on texts wrapped in the same way are read in one pass.
    """
    service.check_chars([num_chars(text) for text in texts], "input")
    if len(texts) > (most := service.settings.limits.texts):
        raise Refused(
            400,
            f"Got {len(texts):,} texts, this server takes {most:,}; send fewer at once.",
            "invalid_value",
            "input",
        )
    probes = service.engine.probes
    ways: dict[Template, list[str]] = {}
    for name in names:
        ways.setdefault(template or probes[name].card.template, []).append(name)
    rows: list[Judged] = [({}, {}) for _ in texts]
    num_tokens = 0
    with service.queue():
        for way, group in ways.items():
            ids = await service.encode(
                lambda w=way: [encode_text(service.engine, text, w) for text in texts],
                sum(map(num_chars, texts)),
            )
            num_tokens += sum(map(len, ids))
            context.account.spend(sum(map(len, ids)))
            found = await _classify(service, context, check_rows(service, ids), group)
            scopes: dict[str, Scope] = {name: probes[name].card.scope for name in group}
            for (row, missing), verdicts, tokens in zip(rows, found, ids, strict=True):
                row |= verdicts
                missing |= absences(scopes, verdicts, tokens, SCOPES)
    for row, _ in rows:
        service.metrics.count_verdicts("text", row)
    context.facts["text_verdicts"] = {
        name: Counter(label for row, _ in rows if name in row for label in row[name].labels)
        for name in names
    }
    context.facts |= {"num_texts": len(texts), "prompt_tokens": num_tokens}
    ordered = [({n: row[n] for n in names if n in row}, missing) for row, missing in rows]
    return ordered, num_tokens


async def _classify(
    service: Service, context: RequestContext, ids: Sequence[Sequence[int]], names: Sequence[str]
) -> list[dict[str, Verdict]]:
    try:
        async with asyncio.timeout(context.seconds_left):
            return await service.engine.classify(ids, names, context.caller)
    except TimeoutError as error:
        raise Refused(504, "The texts took too long; send fewer.", "timeout") from error
    except PillionError as error:
        raise refusal_of(error) from error


def check_rows(service: Service, ids: Sequence[Tokens]) -> Sequence[Tokens]:
    """The rows, if the model takes each of them.

    Raises:
        Refused: one that is empty or too long.
    """
    window = service.engine.identity.context_tokens
    for i, row in enumerate(ids):
        if not 0 < len(row) <= window:
            raise Refused(
                400,
                f"Text {i + 1} has {len(row):,} tokens, this model takes 1 to {window:,}; "
                f"{'shorten' if row else 'fill'} it.",
                "context_length_exceeded",
                "input",
            )
    return ids


__all__ = ["ALLOW", "classify_routes"]
