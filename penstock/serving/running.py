"""Running the predictor: its processes, its signals, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import tempfile
from pathlib import Path

from penstock.config.serving import Serve
from penstock.console import say
from penstock.errors import PenstockError
from penstock.http_serving import (
    BACKLOG,
    BEATS,
    Beat,
    Server,
    beating,
    configured,
    listening,
    many_files,
    patient,
    require_keys,
    settle_garbage,
    several,
)
from penstock.serving.declared import served_models

__all__ = ["serve"]

METRICS = "PROMETHEUS_MULTIPROC_DIR"


def serve(view: Serve) -> int:
    """Run the predictor until it is told to stop (SIGTERM, SIGINT); its exit code.

    Raises:
        PenstockError: It may not listen there, or cannot; or there is nothing to serve.
    """
    if view.socket is None:
        hint = "name a file of keys: keys=conf/clients.yaml, and `penstock keys add CLIENT`"
        require_keys("serve", view.host, view.keys, view.certificate, hint)
    names = served_models(view)
    many_files()
    sock = listening(view.host, view.port, "serve") if view.socket is None else _unix(Path(view.socket))
    kind = "https" if view.certificate else "http"
    where = f"unix:{view.socket}" if view.socket else f"{kind}://{view.host}:{sock.getsockname()[1]}"
    say(f"serve: {where}/v2/models: {', '.join(names)}" + ("" if view.keys else ", without keys"))
    try:
        # Prometheus counts in files that all processes can read, also if there is only one: it may be started again.
        with tempfile.TemporaryDirectory(prefix="penstock-metrics-") as folder:
            os.environ[METRICS] = folder
            parent = os.getpid()  # before the fork: whoever asks later may already have another
            patience = view.limits.answer_seconds.total_seconds() + BEATS
            return several(
                view.workers, lambda _, beat: _one(view, sock, beat, parent), "serve", patience=patience
            )
    finally:
        if view.socket is not None:
            with contextlib.suppress(FileNotFoundError):
                Path(view.socket).unlink()


def _unix(path: Path) -> socket.socket:
    """A socket in the file system, for its owner alone."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_socket():  # of one that was killed
            path.unlink()
        before = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.listen(BACKLOG)
    except OSError as error:
        raise PenstockError(
            f"serve.socket: cannot listen at {path}: {error.strerror}", hint="choose another path"
        ) from error
    sock.setblocking(False)
    return sock


def _one(view: Serve, sock: socket.socket, beat: Beat, parent: int) -> int:
    import uvloop

    return uvloop.run(_run(view, sock, beat, parent))


async def _run(view: Serve, sock: socket.socket, beat: Beat, parent: int) -> int:
    # After the fork, and after Prometheus is told of its folder, which it looks for when it is imported: neither ONNX Runtime's threads nor Prometheus' files outlive one.
    from penstock.http_direct import direct
    from penstock.serving.application import create_app
    from penstock.serving.protocol import Direct

    app = create_app(view)
    await app.open()
    limits = view.limits
    protocol = patient(limits.body_seconds.total_seconds(), limits.connections, direct(Direct(app.predictor)))
    config = configured(
        app, protocol, limits.idle_seconds.total_seconds(), view.certificate, view.private_key
    )
    server = Server(config)
    loop = asyncio.get_running_loop()

    def leave() -> None:
        app.predictor.draining = True
        loop.call_later(view.limits.drain_seconds.total_seconds(), server.leave)

    async def look() -> None:
        for name in list(app.predictor.registry.models):
            await app.predictor.registry.reload(name)

    looks: set[asyncio.Task[None]] = set()

    def again() -> None:
        task = loop.create_task(look())
        looks.add(task)
        task.add_done_callback(looks.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave)
    loop.add_signal_handler(signal.SIGHUP, again)
    settle_garbage()
    telling = loop.create_task(beating(beat, parent, leave))
    try:
        await server.serve(sockets=[sock])
    finally:
        telling.cancel()
        await app.close()
    return 0
