# pyright: reportMissingImports=false
"""Verdicts in the answers of `vllm serve`: a plugin of its HTTP server.

A body gets `verdicts` at its top (and in every choice, if there are several). A stream gets them
where its first prompt has been read, and again, with those of the answers, at its end.
vLLM loads the plugin only if `VLLM_PLUGINS` names it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse

from pillion.backends.checkpoint import load_codec
from pillion.errors import PillionError
from pillion.probe import Artefact
from pillion.riding.middleware import VerdictMiddleware
from pillion.riding.rendering import Rendering
from pillion.riding.request_verdicts import Json
from pillion.riding.verdicts import probes_json
from pillion.vllm.classify import TextClassifier
from pillion.vllm.guard import PolicyGuard
from pillion.vllm.http_outputs import listen
from pillion.vllm.settings import PLUGIN, VllmProbeSettings, has_settings
from pillion.vllm.start import check_template, policies_of
from pillion.vllm.turns import watch


class Endpoint:
    """The plugin; see `vllm.plugins.endpoint_plugins.interface.EndpointPlugin`."""

    name = PLUGIN
    required_tasks: ClassVar[tuple[str, ...]] = ("generate",)

    def attach_router(self, app: Any) -> None:
        """Adds a route that lists the probes, and stands around all others."""

        @app.get("/v1/probes")
        async def probes() -> Json:
            riding: Sequence[Artefact] = getattr(app.state, "pillion_probes", ())
            return probes_json(riding)

        @app.post("/classify")
        async def classify(request: Request) -> JSONResponse:
            if not _is_known(request, app.state.args):
                return JSONResponse({"error": "Unauthorized"}, 401)
            classifier: TextClassifier | None = getattr(app.state, "pillion_classifier", None)
            if classifier is None:
                return _refusal("No probe rides here; see `pillion vllm`.", 404)
            try:
                return JSONResponse(await classifier.answer(await request.body()))
            except PillionError as error:
                return _refusal(str(error), 400)

        app.add_middleware(VerdictMiddleware)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Listens to the engine for what the middleware will tell."""
        config = engine_client and engine_client.vllm_config.additional_config
        if not has_settings(config):
            return
        from vllm.renderers.chat_utils import load_chat_template

        settings = VllmProbeSettings.of(config)
        state.pillion_probes = probes = tuple(settings.load())
        scoped = any(probe.card.scope != "all" for probe in probes)
        codec = load_codec(engine_client.vllm_config.model_config.tokenizer)
        if not settings.allow_mismatch:
            given = load_chat_template(args.chat_template)
            check_template(probes, codec.tokenizer.chat_template, given)
        watch(Rendering(codec, scoped), state.online_renderer, engine_client)
        listen(engine_client)
        state.pillion_policies = policies = policies_of(settings.policy, settings.http, probes)
        if policies.policies:
            from vllm.v1.engine import FinishReason

            guard = PolicyGuard(probes, policies, FinishReason.STOP)
            guard.watch(engine_client.output_processor)
        model = engine_client.vllm_config.model_config
        names = args.served_model_name or [args.model]
        sizes = model.max_model_len, model.get_vocab_size()
        state.pillion_classifier = TextClassifier(engine_client, codec, probes, names, sizes)


def _is_known(request: Request, args: Any) -> bool:
    """Whether a client may ask where vLLM's own keys do not look, for its path has no `/v1`."""
    keys = [key for key in (args.api_key or [os.environ.get("VLLM_API_KEY")]) if key]
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    same = [secrets.compare_digest(given.strip().encode(), key.encode()) for key in keys]
    return not keys or (scheme.lower() == "bearer" and any(same))


def _refusal(why: str, status: int) -> JSONResponse:
    """An error in the shape of vLLM's."""
    kind = "NotFoundError" if status == 404 else "BadRequestError"
    error = {"message": why, "type": kind, "param": None, "code": status}
    return JSONResponse({"error": error}, status)
