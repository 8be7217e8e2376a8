"""What a predictor serves, how, and what it refuses."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from penstock.config.base import View
from penstock.config.loading.spans import duration
from penstock.config.serving.requests import RequestLog

__all__ = ["Batching", "Limits", "Reload", "Serve", "ServedModel", "Signatures"]

Duration = Annotated[timedelta, BeforeValidator(duration)]
Count = Annotated[int, Field(ge=1)]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ServedModel(View):
    """One artefact, and other versions of it that are asked for by their version."""

    path: str  # its folder
    also: tuple[str, ...] = ()  # folders of other versions
    variant: Literal["fp32", "int8"] = "fp32"  # of pictures


class Batching(View):
    """Requests that share a run of the model.

    What comes while the model is busy waits and shares the next run. What comes while it is idle is run at once, unless
    ``max_batch_time`` has it wait for others.
    """

    max_batch_size: Count = 256  # rows of one run
    max_batch_time: Annotated[Duration, Field(ge=timedelta(0))] = timedelta(0)


class Limits(View):
    """What is refused, before it costs anything."""

    body_bytes: Count = 4_194_304
    rows: Count = 4096  # of one request
    pixels: Count = 16_777_216  # of the pictures of one request, together
    queued_rows: Count = 16_384  # that wait for a model, in one process; beyond, 503
    large_requests: Count = (
        32  # pictures, and bodies of more than 128 KiB, under way in one process; beyond, 503
    )
    connections: Count = 4096  # of one process
    body_seconds: Duration = timedelta(seconds=20)  # until a request has come whole; beyond, 408
    idle_seconds: Duration = timedelta(seconds=65)  # between two requests of a connection
    answer_seconds: Duration = timedelta(seconds=10)  # until there is an answer; beyond, 504
    drain_seconds: Duration = timedelta(
        seconds=1
    )  # between being told to stop and the last connection that is taken


class Reload(View):
    """How a changed artefact comes to be served. A signal (SIGHUP) and the admin route work in any case."""

    poll: Duration | None = timedelta(seconds=1)  # between looks at the manifests; null: never
    keep: Annotated[int, Field(ge=0)] = 1  # earlier versions that can still be asked for by their version


class Signatures(View):
    """Whether an artefact must have been signed: `penstock sign`."""

    required: bool = False
    key: str | None = None  # a file: PEM of the public key that it must have been signed by

    @model_validator(mode="after")
    def _has_a_key(self) -> Self:
        if self.required and self.key is None:
            raise ValueError("signatures.required asks for signatures.key, the file of a public key")
        return self


class Serve(View):
    """One predictor: some processes behind one port."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8500
    socket: str | None = None  # a Unix socket, instead of a port
    workers: Count = 1  # processes
    models: dict[str, ServedModel] | None = None  # null: every artefact in models/
    unknown_columns: Literal["refuse", "ignore"] = "refuse"  # of a row, that the model does not have
    batching: Batching = Batching()
    limits: Limits = Limits()
    reload: Reload = Reload()
    signatures: Signatures = Signatures()
    keys: str | None = None  # a file of clients' keys, hashed: `penstock serve-keys`; None on 127.0.0.1 only
    admin_keys: str | None = None  # a file of keys for /admin/; None: nobody is let in there
    certificate: str | None = None  # files of TLS
    private_key: str | None = None
    requests: RequestLog | None = None  # null: what is asked is not recorded

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        wrong = [name for name in self.models or {} if not NAME.fullmatch(name)]
        if wrong:
            raise ValueError(
                f"models: {wrong[0]!r} cannot stand in an address; letters, digits, dots, - and _ can"
            )
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key go together")
        return self
