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
import os
from collections.abc import Sequence
from typing import Any

from ray import serve


@serve.ingress()
class Server:
    """One replica.

    Args:
        model: as in `pillion serve --model`.
        probes: folders of trained probes, under names that all nodes know.
        keys: of clients, as hashes; without any the server answers its own machine only.
    """

    def __init__(self, model: str, probes: Sequence[str], keys: Any) -> None:
        self.model, self.probes, self.keys = model, probes, keys
        self.served: Any = None

    def __serve_build_asgi_app__(self) -> Any:
        """The application, built where it runs; Serve starts it and its engine."""
        from pillion.probe import Artefact
        from pillion.runtime import load_engine
        from pillion.serve import Settings, create_app

        artefacts = [Artefact.load(folder) for folder in self.probes]
        engine = load_engine("transformers", self.model, artefacts)
        self.served = create_app(engine, Settings(names=(self.model,), keys=self.keys))
        return self.served

    def check_health(self) -> None:
        """Called by Serve now and then; an error takes the replica out of service."""
        if self.served.state.service.health.state != "ready":
            raise RuntimeError("The engine is not ready.")


def application(options: dict[str, str]) -> serve.Application:
    """The application that Serve runs.

    Args:
        options: `model`, `probes` (folders, with commas between them), `replicas`, and `cpus` and
            `gpus` of each replica. API keys are those of PILLION_API_KEYS where this is called.
    """
    from pillion.serve import load_keys

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
    keys = load_keys(None, os.environ)
    return deployment.bind(options.get("model", "embedded"), probes, keys)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--probe", action="append", default=[])
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(arguments)
    given = {"model": options.model, "probes": ",".join(options.probe)}
    serve.start(http_options={"host": options.host, "port": options.port})
    serve.run(application({**given, "replicas": str(options.replicas)}), blocking=True)


if __name__ == "__main__":
    main()
