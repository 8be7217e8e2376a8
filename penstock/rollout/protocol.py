"""Predictions straight from the parser: the router as ``penstock.http_direct`` asks it."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable
from functools import partial

from penstock.http_direct import Answering, Headers
from penstock.rollout.router import Refusal, Reply, Router, defect

__all__ = ["Direct"]


class Direct:
    """What answers predictions.

    Args:
        router: Whose they are.
    """

    def __init__(self, router: Router) -> None:
        self.router = router
        self.body_bytes = router.limits.body_bytes
        self.body_seconds = router.limits.timeouts.body.total_seconds()

    @property
    def draining(self) -> bool:
        """Whether the router is told to stop."""
        return self.router.draining

    def route(self, url: bytes) -> tuple[str, bytes] | None:
        """Path and address of a prediction; None of all else."""
        path = urllib.parse.unquote(url.partition(b"?")[0].decode("ascii", "replace"))
        return (path, url) if self.router.predicts(path) else None

    def admit(self, _: tuple[str, bytes], headers: Headers) -> Callable[[Answering], None] | None:
        """Ask for a key, where one is asked for."""
        try:
            self.router.require_key(headers)
        except Refusal as refusal:
            return partial(self._refuse, refusal)
        except Exception as error:
            return partial(self._refuse, defect(error))
        return None

    def take(self, route: tuple[str, bytes], headers: Headers, content: bytes, answering: Answering) -> None:
        """Have it answered."""
        try:
            call = self.router.call(*route, headers, content)
        except Exception as error:
            self._refuse(defect(error), answering)
        else:
            self.router.take(call, partial(_answer, answering))

    def too_large(self, _: tuple[str, bytes], __: Headers, answering: Answering) -> None:
        """A refusal."""
        self._refuse(Refusal(413, "large", f"the request has more than {self.body_bytes} bytes"), answering)

    def too_slow(self, _: tuple[str, bytes], __: Headers, answering: Answering) -> None:
        """A refusal."""
        self._refuse(Refusal(408, "slow", "the request did not come whole in time"), answering)

    def _refuse(self, refusal: Refusal, answering: Answering) -> None:
        _answer(answering, self.router.refusal(refusal))


def _answer(answering: Answering, reply: Reply) -> None:
    answering(reply.status, b"".join([b"%b: %b\r\n" % header for header in reply.headers]), reply.body)
