"""Which parameter settings are tried, and in which order."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from penstock.config import Candidate, Grid, Range, Scalar, Search, Space
from penstock.errors import PenstockError

__all__ = ["Setting", "best", "settings"]

Setting = dict[str, Scalar | None]

MOST_SETTINGS = 1000


def settings(candidate: Candidate, search: Search, *, name: str, seed: int) -> list[Setting] | None:
    """The settings to try, without the fixed parameters; None where each depends on the one before (optuna).

    Args:
        candidate: Its space; an empty one, or search "none", has the one empty setting: the fixed parameters
            as they stand.
        search: How.
        name: The candidate's name: candidates draw independently of each other, and of their order.
        seed: Of random draws.

    Raises:
        PenstockError: A grid of more than 1,000 settings.
    """
    if search.name == "none" or not candidate.space:
        return [{}]
    if search.name == "optuna":
        return None
    if search.name == "grid":
        axes = {key: _points(space) for key, space in candidate.space.items()}
        count = int(np.prod([len(values) for values in axes.values()]))
        if count > MOST_SETTINGS:
            raise PenstockError(
                f"candidates.{name}: the grid has {count} settings, more than {MOST_SETTINGS}",
                hint="search.name random or optuna, or fewer values",
            )
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    draws = np.random.default_rng([seed, zlib.crc32(name.encode())])
    drawn = [
        {key: _draw(space, draws) for key, space in candidate.space.items()} for _ in range(search.trials)
    ]
    return [setting for at, setting in enumerate(drawn) if setting not in drawn[:at]]


def _points(space: Space) -> list[Scalar | None]:
    if isinstance(space, Grid):
        return list(space.values)
    make = np.geomspace if space.log else np.linspace
    return list(
        dict.fromkeys(_typed(space, float(x)) for x in make(space.low, space.high, space.grid_points))
    )


def _typed(space: Range, value: float) -> int | float:
    # Six digits are what reports show: a setting read there can be typed again and gives the same fit.
    return round(value) if space.kind == "int" else float(f"{value:.6g}")


def _draw(space: Space, draws: np.random.Generator) -> Scalar | None:
    if isinstance(space, Grid):
        return space.values[int(draws.integers(len(space.values)))]
    if space.log:
        return _typed(space, float(np.exp(draws.uniform(np.log(space.low), np.log(space.high)))))
    return _typed(space, float(draws.uniform(space.low, space.high)))


def best(
    candidate: Candidate,
    search: Search,
    evaluate: Callable[[Sequence[Setting]], list[float]],
    *,
    name: str,
    seed: int,
) -> Setting:
    """The setting of the highest score; of equal ones the first. NaN is worse than anything.

    Args:
        candidate: As for ``settings``.
        search: As for ``settings``.
        evaluate: Scores of a batch of settings; greater is better.
        name: As for ``settings``.
        seed: Of random draws and of Optuna's sampler.
    """
    listed = settings(candidate, search, name=name, seed=seed)
    if listed is not None:
        return listed[0] if len(listed) == 1 else listed[_highest(evaluate(listed))]
    tried, scores = _optuna(candidate.space, search.trials, evaluate, seed)
    return tried[_highest(scores)]


def _highest(scores: Sequence[float]) -> int:
    return int(np.argmax(np.nan_to_num(np.array(scores, dtype=np.float64), nan=-np.inf, neginf=-np.inf)))


def _optuna(
    space: Mapping[str, Space], trials: int, evaluate: Callable[[Sequence[Setting]], list[float]], seed: int
) -> tuple[list[Setting], list[float]]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    tried: list[Setting] = []
    scores: list[float] = []
    for _ in range(trials):
        trial = study.ask()
        setting = {key: _suggest(trial, key, item) for key, item in space.items()}
        score = scores[tried.index(setting)] if setting in tried else evaluate([setting])[0]
        tried.append(setting)
        scores.append(score)
        study.tell(
            trial, score if np.isfinite(score) else None, state=None if np.isfinite(score) else _failed()
        )
    return tried, scores


def _failed() -> Any:
    import optuna

    return optuna.trial.TrialState.FAIL


def _suggest(trial: Any, key: str, space: Space) -> Scalar | None:
    if isinstance(space, Grid):
        chosen: Scalar | None = trial.suggest_categorical(key, list(space.values))
        return chosen
    if space.kind == "int":
        return int(trial.suggest_int(key, round(space.low), round(space.high), log=space.log))
    return _typed(space, float(trial.suggest_float(key, space.low, space.high, log=space.log)))
