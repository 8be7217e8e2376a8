"""Running the recommender: its processes, its signals, and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

from penstock.artifact.recommender_manifest import is_of_interactions
from penstock.config.serving.recommender import Recommend
from penstock.console import say
from penstock.errors import PenstockError
from penstock.http_serving import (
    Beat,
    Server,
    beating,
    configured,
    listening,
    many_files,
    patient,
    require_keys,
    several,
)

__all__ = ["serve"]

METRICS = "PROMETHEUS_MULTIPROC_DIR"
PATIENCE = 30.0  # seconds without a word until a process is killed
SWITCH = 0.000_5  # seconds for which the loop and the thread that writes keep the interpreter from each other, at most


def serve(view: Recommend) -> int:
    """Run the recommender until it is told to stop (SIGTERM, SIGINT); its exit code.

    Raises:
        PenstockError: It may not listen there, or cannot; or there is no artefact that recommends.
    """
    hint = "name a file of keys: keys=conf/clients.yaml, and `penstock keys add CLIENT`"
    require_keys("recommend", view.host, view.keys, view.certificate, hint)
    if not is_of_interactions(Path(view.model)):
        raise PenstockError(
            f"recommend.model: {view.model} holds no artefact that recommends",
            hint="`dvc repro` makes models/ratings; or name a folder: model=FOLDER",
        )
    many_files()
    sock = listening(view.host, view.port, "recommend")
    kind = "https" if view.certificate else "http"
    where = f"{kind}://{view.host}:{sock.getsockname()[1]}"
    say(
        f"recommend: {where}/{'' if view.page else 'v1/recommendations/USER'}{'' if view.keys else ', without keys'}"
    )
    # Prometheus counts in files that all processes can read, also if there is only one: it may be started again.
    with tempfile.TemporaryDirectory(prefix="penstock-metrics-") as folder:
        os.environ[METRICS] = folder
        parent = os.getpid()  # before the fork: whoever asks later may already have another
        return several(
            view.workers, lambda _, beat: _one(view, sock, beat, parent), "recommend", patience=PATIENCE
        )


def _one(view: Recommend, sock: socket.socket, beat: Beat, parent: int) -> int:
    import uvloop

    return uvloop.run(_run(view, sock, beat, parent))


async def _run(view: Recommend, sock: socket.socket, beat: Beat, parent: int) -> int:
    # After the fork, and after Prometheus is told of its folder: neither threads nor files outlive one.
    from penstock.serving.recommender.application import create_app

    sys.setswitchinterval(SWITCH)
    app = create_app(view)
    await app.open()
    limits = view.limits
    protocol = patient(limits.body_seconds.total_seconds(), limits.connections)
    config = configured(
        app, protocol, limits.idle_seconds.total_seconds(), view.certificate, view.private_key
    )
    server = Server(config)
    loop = asyncio.get_running_loop()

    def leave() -> None:
        app.draining = True
        loop.call_later(limits.drain_seconds.total_seconds(), server.leave)

    looks: set[asyncio.Task[None]] = set()

    def again() -> None:
        task = loop.create_task(app.model.reload())
        looks.add(task)
        task.add_done_callback(looks.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave)
    loop.add_signal_handler(signal.SIGHUP, again)
    telling = loop.create_task(beating(beat, parent, leave))
    try:
        await server.serve(sockets=[sock])
    finally:
        telling.cancel()
        await app.close()
    return 0
