"""The predictor as a container of SageMaker: one model, at the two addresses that SageMaker knows.

SageMaker runs an image as ``IMAGE serve``, unpacks the artefact under /opt/ml/model, and asks at port 8080: ``GET /ping`` until it is
answered by 200, and ``POST /invocations`` for each request. Who may ask is its business (IAM); no key of ours could be sent along.
The contract: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from penstock.config.serving import Reload, Serve, ServedModel, Signatures
from penstock.errors import PenstockError
from penstock.serving.application import Application, Receive, Scope, Send
from penstock.storage import read_json

__all__ = ["Container", "main", "view"]

MODEL = Path("/opt/ml/model")
PORT = 8080
TENSORS = b"protocol=v2"  # X-Amzn-SageMaker-Custom-Attributes of a request in the Open Inference Protocol
ATTRIBUTES = b"x-amzn-sagemaker-custom-attributes"


def view(folder: Path, environment: dict[str, str]) -> Serve:
    """What is served.

    Args:
        folder: Where the artefact is.
        environment: PENSTOCK_SIGNATURES ("required" or "optional"), PENSTOCK_PUBLIC_KEY (a file), PENSTOCK_HOST, PENSTOCK_PORT.

    Raises:
        PenstockError: A signature is to be asked for and there is no key.
    """
    asked = environment.get("PENSTOCK_SIGNATURES", "required")
    if asked not in {"required", "optional"}:
        raise PenstockError(f"PENSTOCK_SIGNATURES: {asked!r}", hint="required or optional")
    key = environment.get("PENSTOCK_PUBLIC_KEY", "/etc/penstock/release.pub")
    if asked == "required" and not Path(key).is_file():
        raise PenstockError(
            f"{key}: there is no such file, and the artefact must be signed",
            hint="build the image with the public key, or PENSTOCK_SIGNATURES=optional",
        )
    name = str(read_json(folder / "manifest.json").get("name", "model"))
    return Serve(
        host=environment.get("PENSTOCK_HOST", "0.0.0.0"),  # noqa: S104 - SageMaker asks from outside of the container
        port=int(environment.get("PENSTOCK_PORT", PORT)),
        models={name: ServedModel(path=str(folder))},
        reload=Reload(poll=None),  # another model is another container
        signatures=Signatures(required=asked == "required", key=key if asked == "required" else None),
    )


class Container:
    """The predictor's application at SageMaker's addresses, and no other.

    Args:
        app: What answers.
        model: The name of its one model.
    """

    def __init__(self, app: Application, model: str) -> None:
        self.app = app
        self.model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        match scope["path"]:
            case "/ping":
                path = "/v2/health/ready"
            case "/invocations":
                tensors = any(name == ATTRIBUTES and TENSORS in value for name, value in scope["headers"])
                path = f"/v2/models/{self.model}/infer" if tensors else f"/v1/models/{self.model}/predict"
            case _:
                path = "/not-here"
        await self.app({**scope, "path": path, "raw_path": path.encode()}, receive, send)


async def _run(declared: Serve) -> int:
    import uvicorn

    app = Application(declared)
    await app.open()
    (model,) = declared.models or {}
    config = uvicorn.Config(
        Container(app, model),
        host=declared.host,
        port=declared.port,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=declared.limits.connections,
        timeout_graceful_shutdown=25,  # SageMaker kills after 30 s
    )
    server = uvicorn.Server(config)
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGTERM, lambda: setattr(server, "should_exit", True)
    )
    await server.serve()
    await app.close()
    return 0


def main() -> None:
    """Entry point of the image's program ``serve``."""
    import uvloop

    from penstock.console import fail

    try:
        sys.exit(uvloop.run(_run(view(Path(os.environ.get("PENSTOCK_MODEL", MODEL)), dict(os.environ)))))
    except PenstockError as error:
        sys.exit(fail(error, where="serve"))


if __name__ == "__main__":
    main()
