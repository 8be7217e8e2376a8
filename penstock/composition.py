"""params.yaml from conf/: the same composition that `dvc exp run` makes, without running anything."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from penstock import config
from penstock.errors import PenstockError
from penstock.storage import write_text

__all__ = ["compose", "in_step", "write_params"]


def compose(root: Path, overrides: Sequence[str] = ()) -> str:
    """Compose conf/ under ``root`` and return the text of params.yaml, validated.

    Args:
        root: The repository.
        overrides: Hydra overrides, such as ``dataset=churn``.

    Raises:
        PenstockError: conf/ does not compose, or what comes out does not fit ``penstock.config``.
    """
    # DVC's own function, so that this and `dvc exp run` cannot come to differ.
    from dvc.utils.hydra import compose_and_dump
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "params.yaml"
        try:
            compose_and_dump(
                str(target),
                str(root.resolve() / "conf"),
                None,
                "config",
                str(root.resolve()),
                list(overrides),
            )
        except (HydraException, OmegaConfBaseException) as error:
            raise PenstockError(
                f"conf/ does not compose: {error}", hint="mend the file that is named"
            ) from error
        try:
            config.load(target)
        except PenstockError as error:
            message = error.message.replace(str(target), "params.yaml, composed from conf/,")
            raise PenstockError(message, hint="mend it in conf/") from error
        return target.read_text(encoding="utf-8")


def in_step(root: Path) -> bool:
    """Whether params.yaml is the composition of conf/ as it stands."""
    path = root / config.PARAMS
    return path.is_file() and path.read_text(encoding="utf-8") == compose(root)


def write_params(root: Path, overrides: Sequence[str] = ()) -> Path:
    """Compose conf/ and replace params.yaml, or leave it alone if anything is wrong."""
    path = root / config.PARAMS
    write_text(path, compose(root, overrides))
    return path
