"""The HTTP server on Ray Serve: several replicas behind one address, replaced when they fail.

    pip install 'pillion[ray]'
    python recipes/serve_on_ray.py --probe safety-probe --replicas 2 --port 8000

starts Ray on this machine, or joins the cluster that RAY_ADDRESS names. On a cluster under Serve's
own configuration, `application` is the builder:

    serve run recipes.serve_on_ray:application model=embedded probes=safety-probe replicas=4

Every replica is a whole server with an engine, a model and a prefix cache of its own. Serve asks
each for its health; one that does not answer, or whose engine is not ready, is replaced, and gets
no requests meanwhile. A request that was in flight on a replica that died fails, and is the
client's to send again: tokens of its answer may have gone out already. All others are answered.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ray import serve


@serve.ingress()
class Server:
    """One replica.

    Args:
        model: as in `pillion serve --model`.
        probes: folders of trained probes, under names that all nodes know.
    """

    def __init__(self, model: str, probes: Sequence[str]) -> None:
        self.model, self.probes = model, probes
        self.app: Any = None

    def __serve_build_asgi_app__(self) -> Any:
        """The application, built where it runs; Serve starts it and its engine."""
        from pillion.probe import Artefact
        from pillion.runtime import load_engine
        from pillion.serve import Settings, create_app

        artefacts = [Artefact.load(folder) for folder in self.probes]
        engine = load_engine("transformers", self.model, artefacts)
        self.app = create_app(engine, Settings(names=(self.model,)))
        return self.app

    def check_health(self) -> None:
        """Called by Serve now and then; an error takes the replica out of service."""
        if not self.app.state.service.ready:
            raise RuntimeError("The engine is not ready.")


def application(options: dict[str, str]) -> serve.Application:
    """The application that Serve runs.

    Args:
        options: `model`, `probes` (folders, with commas between them), `replicas`, and `cpus` and
            `gpus` of each replica.
    """
    probes = [folder for folder in options.get("probes", "").split(",") if folder]
    deployment = serve.deployment(Server, name="pillion").options(
        num_replicas=int(options.get("replicas", 2)),
        ray_actor_options={
            "num_cpus": float(options.get("cpus", 1)),
            "num_gpus": float(options.get("gpus", 0)),
        },
        # The engine batches by itself; its own queue answers 429 when it is full.
        max_ongoing_requests=256,
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=30,
    )
    return deployment.bind(options.get("model", "embedded"), probes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--probe", action="append", default=[])
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(arguments)
    given = {"model": options.model, "probes": ",".join(options.probe)}
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    serve.run(application({**given, "replicas": str(options.replicas)}), blocking=True)


if __name__ == "__main__":
    main()
