"""params.yaml from conf/: the same composition that `dvc exp run` makes, without running anything."""

from __future__ import annotations

import difflib
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock import config
from penstock.errors import PenstockError
from penstock.storage import write_text

__all__ = ["compose", "composed_file", "in_step", "write_params"]


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


def composed_file(group: str, name: str, overrides: Sequence[str], root: Path) -> dict[str, Any]:
    """One file of conf/, composed by itself: a load, a stream.

    Args:
        group: Its folder under conf/.
        name: The file's, without .yaml.
        overrides: Hydra's, of what is in the file.
        root: The repository.

    Raises:
        PenstockError: There is no such file, or it does not compose.
    """
    known = sorted(path.stem for path in (root / "conf" / group).glob("*.yaml"))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise PenstockError(
            f"conf/{group}/{name}.yaml: there is no such file",
            hint=f"did you mean {near[0]}?" if near else f"there are: {', '.join(known) or 'none'}",
        )
    # Late: Hydra is half a second.
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    # A secret stays a name until a connection is made.
    OmegaConf.register_new_resolver("secret", lambda key: f"${{secret:{key}}}", replace=True)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str((root / "conf").resolve()), version_base="1.3"):
            named = [_within(group, override) for override in overrides]
            whole = compose(f"{group}/{name}", overrides=named)
            found = OmegaConf.to_container(whole, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise PenstockError(
            f"conf/{group}/{name}.yaml does not compose: {error}", hint="mend what is named"
        ) from error
    if isinstance(found, dict) and set(found) == {group}:
        found = found[group]
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def _within(group: str, override: str) -> str:
    """An override of what is in the file: nobody should have to name the group, nor to know what the file spells out."""
    prefixed = re.fullmatch(rf"([+~]*)(?:{group}\.)?(.*)", override, re.DOTALL)
    assert prefixed is not None
    # A key that no view knows is refused by the view, which says so better.
    return f"{prefixed[1] or '++'}{group}.{prefixed[2]}"
