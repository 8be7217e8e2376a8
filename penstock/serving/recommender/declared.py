"""What a command line declares: conf/recommend/NAME.yaml and overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from penstock.composition import composed_file
from penstock.config import validated
from penstock.config.serving.recommender import Recommend
from penstock.errors import PenstockError

__all__ = ["declared"]

DEFAULT = "default"


def declared(arguments: Sequence[str] = (), root: Path = Path()) -> Recommend:
    """What is to be served.

    Args:
        arguments: A name of conf/recommend/, else "default", and Hydra overrides such as ``port=9000``.
        root: The repository.

    Raises:
        PenstockError: There is no such file, it does not compose, or what comes out does not fit.
    """
    overrides = [argument for argument in arguments if "=" in argument or argument.startswith("~")]
    names = [argument for argument in arguments if argument not in overrides]
    if len(names) > 1:
        raise PenstockError(
            f"{' '.join(names)}: expected one name of conf/recommend/",
            hint="overrides have a = in them: model=models/ratings",
        )
    name = names[0] if names else DEFAULT
    found = composed_file("recommend", name, overrides, root)
    return validated(Recommend, found, Path(f"conf/recommend/{name}.yaml"), hint="mend it there")
