"""What a command line declares: conf/serve/NAME.yaml, or folders of artefacts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock.artifact.manifest import MANIFEST
from penstock.composition import composed_file
from penstock.config import validated
from penstock.config.serving import Serve, ServedModel
from penstock.errors import PenstockError

__all__ = ["declared", "served_models"]

DEFAULT = "default"
MODELS = Path("models")


def declared(arguments: Sequence[str] = (), root: Path = Path()) -> Serve:
    """What is to be served.

    Args:
        arguments: A name of conf/serve/NAME.yaml or folders of artefacts, and Hydra overrides such as ``port=9000``.
            Without a name it is "default", or what is built in where there is no such file.
        root: The repository.

    Raises:
        PenstockError: There is no such file or folder, conf/ does not compose, or what comes out does not fit.
    """
    overrides = [argument for argument in arguments if "=" in argument or argument.startswith("~")]
    named = [argument for argument in arguments if argument not in overrides]
    folders = [
        Path(argument) for argument in named if "/" in argument or (root / argument / MANIFEST).is_file()
    ]
    names = [argument for argument in named if Path(argument) not in folders]
    if len(names) > 1:
        raise PenstockError(
            f"{' '.join(names)}: expected one name of conf/serve/, or folders of artefacts",
            hint="a folder has a / in it: models/churn",
        )
    name = names[0] if names else DEFAULT
    path = Path(f"conf/serve/{name}.yaml")
    found: dict[str, Any] = {}
    if names or (root / path).is_file():
        found = composed_file("serve", name, overrides, root)
    elif overrides:
        found = _plainly(overrides)
    if folders:
        models = {folder.resolve().name: {"path": folder.as_posix()} for folder in folders}
        if len(models) < len(folders):
            raise PenstockError(
                "folders of the same name would be models of the same name",
                hint="name them in conf/serve/: models: {churn: {path: …}, churn_new: {path: …}}",
            )
        found["models"] = models
    return validated(Serve, found, path, hint="mend it there")


def _plainly(overrides: Sequence[str]) -> dict[str, Any]:
    """Overrides of nothing, where there is no conf/."""
    from omegaconf import OmegaConf

    found = OmegaConf.to_container(
        OmegaConf.from_dotlist([text.lstrip("+") for text in overrides]), resolve=True
    )
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def served_models(view: Serve, root: Path = Path()) -> dict[str, ServedModel]:
    """What is declared, or every artefact in models/.

    Raises:
        PenstockError: There is none.
    """
    if view.models is not None:
        found = dict(view.models)
    else:
        folders = sorted(path.parent for path in (root / MODELS).glob(f"*/{MANIFEST}"))
        found = {folder.name: ServedModel(path=folder.as_posix()) for folder in folders}
    if not found:
        raise PenstockError(
            f"{root / MODELS}: there is no artefact to serve",
            hint="`dvc repro` makes them; or name folders: penstock serve FOLDER …",
        )
    return found
