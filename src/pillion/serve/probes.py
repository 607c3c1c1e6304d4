"""`/v1/probes`: which probes ride; load, unload and swap them without a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from pillion.errors import PillionError
from pillion.probe import Artefact
from pillion.serve.body import BodyRoute
from pillion.serve.refusal import Refused, refusal_of
from pillion.serve.request_context import context_of
from pillion.serve.requests import ProbeRequest, SwapRequest
from pillion.serve.service import Service


def probe_routes(service: Service) -> APIRouter:
    """The routes of the riding probes."""
    routes = APIRouter(route_class=BodyRoute)

    @routes.get("/v1/probes")
    async def probes() -> JSONResponse:
        """All probes that ride."""
        data = [describe(service, artefact) for artefact in service.engine.probes.values()]
        return JSONResponse({"object": "list", "data": data})

    @routes.post("/v1/probes", status_code=201)
    async def load(body: ProbeRequest, request: Request) -> JSONResponse:
        """Loads a probe beside the others."""
        check_admin(request)
        artefact = await _load(service, body.path, body.name)
        async with service.changing:
            riding = dict(service.engine.probes)
            if artefact.name in riding:
                raise Refused(
                    409,
                    f"A probe {artefact.name!r} rides already; swap it with PUT, or give another "
                    "name.",
                    "probe_exists",
                    "name",
                )
            await service.change_probes(riding | {artefact.name: artefact})
        service.log("probe_loaded", probe=artefact.name)
        return JSONResponse(describe(service, artefact), 201)

    @routes.put("/v1/probes/{name}")
    async def swap(name: str, body: SwapRequest, request: Request) -> JSONResponse:
        """Puts another probe in the place of one, under its name."""
        check_admin(request)
        artefact = await _load(service, body.path, name)
        async with service.changing:
            riding = _riding(service, name)
            await service.change_probes(riding | {name: artefact})
        service.log("probe_swapped", probe=name)
        return JSONResponse(describe(service, artefact))

    @routes.delete("/v1/probes/{name}")
    async def unload(name: str, request: Request) -> JSONResponse:
        """Unloads a probe; refused with 409 if a policy needs it."""
        check_admin(request)
        async with service.changing:
            riding = _riding(service, name)
            del riding[name]
            await service.change_probes(riding)
        service.log("probe_unloaded", probe=name)
        return JSONResponse({"id": name, "object": "probe", "deleted": True})

    return routes


def describe(service: Service, artefact: Artefact) -> dict[str, Any]:
    """A probe, as it is listed."""
    card = artefact.card
    return {
        "id": artefact.name,
        "object": "probe",
        "kind": card.probe,
        "task": card.task,
        "labels": list(card.labels),
        "thresholds": list(card.thresholds) if card.thresholds else None,
        "layers": list(card.layers),
        "template": card.template,
        "scope": card.scope,
        "policies": [p.action for p in service.policies.policies if p.probe == artefact.name],
        "weights_sha256": card.weights_sha256,
    }


def check_admin(request: Request) -> None:
    """Returns if the caller may change probes.

    Raises:
        Refused: 403.
    """
    if context_of(request.scope).account.caller.role != "admin":
        raise Refused(
            403, "This key may not change probes; use one with the role admin.", "admin_only"
        )


def _riding(service: Service, name: str) -> dict[str, Artefact]:
    riding = dict(service.engine.probes)
    if name not in riding:
        listed = ", ".join(riding) or "none"
        raise Refused(404, f"No probe {name[:80]!r} rides; known: {listed}.", "probe_not_found")
    return riding


async def _load(service: Service, path: str, name: str | None) -> Artefact:
    """The probe in a folder that the operator has opened for loading."""
    roots = service.settings.probe_folders
    folder = await asyncio.to_thread(_inside, path, roots)
    if folder is None:
        raise Refused(
            403,
            "Probes are loaded from the server's own folders only (--probe-folder), and that path "
            "is in none of them.",
            "path_not_allowed",
            "path",
        )
    try:
        artefact = await asyncio.to_thread(Artefact.load, folder, name)
        return artefact if service.settings.exits else artefact.whole
    except PillionError as error:
        raise refusal_of(error) from error


def _lies_in(path: Path, roots: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(root.resolve()) for root in roots)


def _inside(path: str, roots: tuple[Path, ...]) -> Path | None:
    """The folder, if it and its files lie in the roots, links followed."""
    try:
        folders = [Path(path)] if Path(path).is_absolute() else [root / path for root in roots]
        for folder in folders:
            real = folder.resolve()
            files = [real, *(real.iterdir() if real.is_dir() else ())]
            if real.is_dir() and all(_lies_in(file.resolve(), roots) for file in files):
                return folder
    except (OSError, ValueError):  # a NUL, or a name that is too long
        pass
    return None
