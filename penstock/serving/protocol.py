"""Predictions straight from the parser: the predictor as ``penstock.http_direct`` asks it."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable
from functools import partial

from penstock.http_direct import Answering, Headers
from penstock.serving.predictor import Predictor, Response, Route, routed
from penstock.serving.refusals import Refusal

__all__ = ["Direct"]

HEAD = b"content-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\nx-model-version: %b\r\n"


class Direct:
    """What answers predictions.

    Args:
        predictor: Open.
    """

    def __init__(self, predictor: Predictor) -> None:
        limits = predictor.view.limits
        self.predictor = predictor
        self.body_bytes, self.body_seconds = limits.body_bytes, limits.body_seconds.total_seconds()

    @property
    def draining(self) -> bool:
        """Whether the predictor is told to stop."""
        return self.predictor.draining

    def route(self, url: bytes) -> Route | None:
        """Of a prediction; None of all else."""
        path = url.partition(b"?")[0].decode("ascii", "replace")
        return routed(urllib.parse.unquote(path))

    def admit(self, route: Route, headers: Headers) -> Callable[[Answering], None] | None:
        """Ask for a key, where one is asked for."""
        try:
            self.predictor.require_key(headers)
        except Refusal as refusal:
            return partial(self._refuse, route, refusal)
        except Exception as error:
            return partial(self._defect, route, error)
        return None

    def take(self, route: Route, headers: Headers, content: bytes, answering: Answering) -> None:
        """Predict."""
        try:
            call = self.predictor.call(route, headers, content, partial(_answer, answering))
        except Refusal as refusal:
            self._refuse(route, refusal, answering)
        except Exception as error:
            self._defect(route, error, answering)
        else:
            self.predictor.take(call)

    def too_large(self, route: Route, _: Headers, answering: Answering) -> None:
        """A refusal."""
        words = f"expected at most {self.body_bytes} bytes"
        self._refuse(route, Refusal(413, "size", words), answering)

    def too_slow(self, route: Route, _: Headers, answering: Answering) -> None:
        """A refusal."""
        words = f"expected the whole body within {self.body_seconds:.0f} s"
        self._refuse(route, Refusal(408, "slow", words), answering)

    def _defect(self, route: Route, error: Exception, answering: Answering) -> None:
        self.predictor.defect(self.predictor.call(route, (), b"", partial(_answer, answering)), error)

    def _refuse(self, route: Route, refusal: Refusal, answering: Answering) -> None:
        self.predictor.refuse(self.predictor.call(route, (), b"", partial(_answer, answering)), refusal)


def _answer(answering: Answering, response: Response) -> None:
    if response.status == 200 and response.json_length is None and response.version is not None:
        size, request = len(response.body), response.request.encode("ascii")
        head = HEAD % (size, request, response.version.encode("ascii"))
    else:
        lines = (b"%b: %b\r\n" % header for header in response.headers() if header[0] != b"connection")
        head = b"".join(lines)
    answering(response.status, head, response.body)
