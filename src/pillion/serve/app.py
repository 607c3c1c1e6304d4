"""The application: routes, errors, and the life of the engine behind them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pillion.runtime import Engine
from pillion.serve.body_faults import BODIES, body_refusal
from pillion.serve.classify import classify_routes
from pillion.serve.explain import explain_routes
from pillion.serve.generate import generate_routes
from pillion.serve.middleware import RequestMiddleware, refusal_response
from pillion.serve.probes import probe_routes
from pillion.serve.refusal import Refused
from pillion.serve.service import Service
from pillion.serve.settings import Settings

PAGE = Path(__file__).parent / "page" / "index.html"
_PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src "
    "'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def create_app(
    engine: Engine,
    settings: Settings | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> FastAPI:
    """An ASGI application that serves an engine; the engine lives as long as its lifespan.

    Args:
        engine: not started yet.
        settings: what the operator chose.
        transport: in the place of the network to upstreams, for tests.

    Raises:
        ConfigError: the policies do not fit the probes.
    """
    service = Service(engine, settings or Settings(), transport)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncGenerator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.close()

    # No documentation pages: they would load scripts from elsewhere.
    app = FastAPI(title="pillion", lifespan=life, docs_url=None, redoc_url=None)
    app.state.service = service
    for routes in (generate_routes, classify_routes, explain_routes, probe_routes):
        app.include_router(routes(service))
    _add_plain_routes(app, service)
    app.add_exception_handler(HTTPException, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_body)
    app.add_middleware(RequestMiddleware, service=service)
    return app


def _add_plain_routes(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models")
    async def models() -> JSONResponse:
        """The model, in OpenAI's list."""
        return JSONResponse({"object": "list", "data": [_model(name) for name in service.names]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> JSONResponse:
        """One model."""
        service.check_model(name)
        return JSONResponse(_model(name))

    @app.get("/health")
    async def health() -> JSONResponse:
        """Whether the process lives, and can take requests again by itself."""
        state = service.health.state
        if state == "failed":
            return JSONResponse({"status": state}, 503)
        return JSONResponse({"status": state if state == "rebuilding" else "ok"})

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """Whether requests are taken."""
        state = service.health.state
        if state != "ready":
            return JSONResponse({"status": state}, 503, {"Retry-After": "1"})
        return JSONResponse({"status": state})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        return PlainTextResponse(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        """The page."""
        if not PAGE.is_file():
            raise Refused(404, "This installation has no page.", "not_found")
        return FileResponse(PAGE, headers=_PAGE_HEADERS)


ROUTES = (*BODIES, "/v1/models", "/health", "/ready", "/metrics")
_NO_ROUTE = "This server has no such route; it answers"


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "pillion"}


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if not isinstance(error, Refused):  # the framework's own: no such route, no such method
        detail, code = str(error.detail), None
        if error.status_code == 404:
            detail, code = f"{_NO_ROUTE} {', '.join(ROUTES)}.", "unknown_url"
        elif error.status_code == 405:
            allowed = (error.headers or {}).get("Allow") or "another method"
            detail = f"{request.url.path} is not answered to {request.method}; send {allowed}."
            code = "method_not_allowed"
        error = Refused(error.status_code, detail, code, None, error.headers)
    return refusal_response(error)


async def _refuse_body(request: Request, error: Exception) -> Response:
    """What is wrong with a body, in OpenAI's shape."""
    assert isinstance(error, RequestValidationError)
    route = getattr(request.scope.get("route"), "path", "")
    content_type = request.headers.get("content-type", "")
    return refusal_response(body_refusal(route, content_type, error.errors()[0]))
