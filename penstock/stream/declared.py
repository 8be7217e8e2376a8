"""conf/stream/NAME.yaml, composed as the rest of conf/ is and checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from penstock.composition import composed_file
from penstock.config import validated
from penstock.config.streaming import Stream

__all__ = ["declared"]


def declared(name: str, overrides: Sequence[str] = (), root: Path = Path()) -> Stream:
    """What is declared for a real-time path.

    Args:
        name: Of conf/stream/NAME.yaml.
        overrides: Hydra's, such as ``gateway.port=9000``.
        root: The repository.

    Raises:
        PenstockError: There is no such file, conf/ does not compose, or what comes out does not fit.
    """
    found = composed_file("stream", name, overrides, root)
    return validated(Stream, found, Path(f"conf/stream/{name}.yaml"), hint="mend it there")
