"""Predictions straight from the parser: the router as ``penstock.http_direct`` asks it."""

from __future__ import annotations

import urllib.parse

from penstock.http_direct import Answering, Headers
from penstock.rollout.router import Refusal, Reply, Router

__all__ = ["Direct"]


class Direct:
    """What answers predictions.

    Args:
        router: Whose they are.
    """

    draining = False  # uvicorn tells each connection

    def __init__(self, router: Router) -> None:
        self.router = router
        self.body_bytes = router.limits.body_bytes
        self.body_seconds = router.limits.timeouts.body.total_seconds()

    def route(self, url: bytes) -> tuple[str, bytes] | None:
        """Path and address of a prediction; None of all else."""
        path = urllib.parse.unquote(url.partition(b"?")[0].decode("ascii", "replace"))
        return (path, url) if self.router.predicts(path) else None

    def take(self, route: tuple[str, bytes], headers: Headers, content: bytes, answering: Answering) -> None:
        """Have it answered."""
        try:
            self.router.require_key(headers)
        except Refusal as refusal:
            self._refuse(answering, refusal)
            return
        self.router.take(self.router.call(*route, headers, content), lambda reply: _answer(answering, reply))

    def too_large(self, _: tuple[str, bytes], __: Headers, answering: Answering) -> None:
        """A refusal."""
        self._refuse(answering, Refusal(413, "large", f"the request has more than {self.body_bytes} bytes"))

    def too_slow(self, _: tuple[str, bytes], __: Headers, answering: Answering) -> None:
        """A refusal."""
        self._refuse(answering, Refusal(408, "slow", "the request did not come whole in time"))

    def _refuse(self, answering: Answering, refusal: Refusal) -> None:
        _answer(answering, self.router.refusal(refusal))


def _answer(answering: Answering, reply: Reply) -> None:
    answering(reply.status, b"".join([b"%b: %b\r\n" % header for header in reply.headers]), reply.body)
