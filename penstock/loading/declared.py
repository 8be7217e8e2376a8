"""conf/load/NAME.yaml, composed as the rest of conf/ is and checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from penstock.composition import composed_file
from penstock.config import validated
from penstock.config.loading import Load

__all__ = ["declared", "names"]


def names(root: Path = Path()) -> list[str]:
    """The loads that conf/load/ declares."""
    return sorted(path.stem for path in (root / "conf/load").glob("*.yaml"))


def declared(name: str, overrides: Sequence[str] = (), root: Path = Path()) -> Load:
    """What is declared for a load.

    Args:
        name: Of conf/load/NAME.yaml.
        overrides: Hydra's, such as ``source.path=other.csv``.
        root: The repository.

    Raises:
        PenstockError: There is no such load, conf/ does not compose, or what comes out does not fit.
    """
    found = composed_file("load", name, overrides, root)
    return validated(Load, found, Path(f"conf/load/{name}.yaml"), hint="mend it there")
