"""conf/load/NAME.yaml, composed as the rest of conf/ is and checked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock.config import validated
from penstock.config.loading import Load
from penstock.errors import PenstockError

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
    known = names(root)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise PenstockError(
            f"conf/load/{name}.yaml: there is no such file",
            hint=f"did you mean {near[0]}?" if near else f"there are: {', '.join(known) or 'none'}",
        )
    return validated(
        Load, _composed(name, overrides, root), Path(f"conf/load/{name}.yaml"), hint="mend it there"
    )


def _composed(name: str, overrides: Sequence[str], root: Path) -> dict[str, Any]:
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
            # What is overridden is the load: nobody should have to say so.
            named = [re.sub(r"^([+~]*)(?!load\.)", r"\1load.", override) for override in overrides]
            whole = compose(f"load/{name}", overrides=named)
            found = OmegaConf.to_container(whole, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise PenstockError(
            f"conf/load/{name}.yaml does not compose: {error}", hint="mend what is named"
        ) from error
    if isinstance(found, dict) and set(found) == {"load"}:
        found = found["load"]
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}
