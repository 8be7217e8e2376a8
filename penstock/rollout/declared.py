"""conf/rollout/NAME.yaml, composed as the rest of conf/ is and checked, artefacts included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from penstock.composition import composed_file
from penstock.config import validated
from penstock.config.rollout import Plan, Rolling, Rollout
from penstock.errors import PenstockError

__all__ = ["check_artifacts", "declared"]


def declared(name: str, overrides: Sequence[str] = (), root: Path = Path()) -> Rollout:
    """What is declared for a rollout.

    Args:
        name: Of conf/rollout/NAME.yaml.
        overrides: Hydra's, such as ``router.port=9000``.
        root: The repository.

    Raises:
        PenstockError: There is no such file, conf/ does not compose, or what comes out does not fit.
    """
    found = composed_file("rollout", name, overrides, root)
    return validated(Rollout, found, Path(f"conf/rollout/{name}.yaml"), hint="mend it there")


def check_artifacts(plan: Plan, root: Path = Path()) -> None:
    """Refuse a plan whose artefacts cannot be loaded, or cannot stand in for the champion.

    A request that the champion can answer must be one that every other arm can answer, with answers of the same kind.

    Raises:
        PenstockError: An artefact is missing, is not what its manifest says, or differs from the champion's contract.
    """
    from penstock.artifact.manifest import MODEL, read
    from penstock.artifact.model import read_verified

    folders = {name: arm.artifact for name, arm in plan.arms.items() if arm.artifact is not None}
    if isinstance(plan.strategy, Rolling):
        folders[f"{plan.strategy.champion} (rolled to)"] = plan.strategy.artifact
    manifests = {}
    for arm, folder in folders.items():
        manifests[arm] = read(root / folder)
        read_verified(root / folder / MODEL, manifests[arm].sha256)
    champion = manifests.get(plan.strategy.champion)
    if champion is None:
        return
    for arm, manifest in manifests.items():
        unlike = _unlike(champion, manifest)
        if unlike:
            raise PenstockError(
                f"{folders[arm]}: {arm} cannot stand in for {plan.strategy.champion}: {unlike}",
                hint="requests and answers must be the same for all arms; another contract is another model's name",
            )


def _unlike(champion: object, other: object) -> str | None:
    from penstock.artifact.manifest import Manifest

    assert isinstance(champion, Manifest)
    assert isinstance(other, Manifest)
    mine, theirs = champion.columns, other.columns
    if missing := [name for name in mine if name not in theirs]:
        return f"it does not take the column {missing[0]}"
    if more := [name for name in theirs if name not in mine]:
        return f"it wants a column {more[0]}"
    if changed := [name for name in mine if mine[name] != theirs[name]]:
        name = changed[0]
        was, now = mine[name].model_dump(), theirs[name].model_dump()
        key = next(key for key in was if was[key] != now[key])
        return f"column {name}: {key} is {now[key]!r}, not {was[key]!r}"
    if champion.task != other.task:
        return f"it is for {other.task}, not {champion.task}"
    if champion.classes is not None and set(champion.classes) != set(other.classes or ()):
        return f"its classes are {', '.join(other.classes or ())}"
    if champion.positive != other.positive:
        return f"its positive class is {other.positive}, not {champion.positive}"
    return None
