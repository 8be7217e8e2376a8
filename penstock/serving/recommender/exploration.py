"""Which new item gets a chance: Thompson sampling on clicks and impressions."""

from __future__ import annotations

import random
from collections.abc import Sequence

from penstock.config.serving.recommender import Exploration
from penstock.serving.recommender.store import NewItem

__all__ = ["chosen", "explores"]


def explores(view: Exploration, request: str, *, cold: bool) -> bool:
    """Whether a list has a place for a new item. Drawn by the request's id: the same request, the same list."""
    return _draws(request, "share").random() < (view.cold_share if cold else view.share)


def chosen(view: Exploration, request: str, items: Sequence[NewItem]) -> NewItem | None:
    """The item whose draw from its Beta posterior is the largest (Thompson, 1933); None of none.

    Args:
        view: Of the prior.
        request: Its id.
        items: Those that may be shown.
    """
    draws = _draws(request, "item")
    best: tuple[float, NewItem] | None = None
    for item in items:
        misses = max(0, item.shown - item.clicked)
        drawn = draws.betavariate(view.clicks + item.clicked, view.misses + misses)
        if best is None or drawn > best[0]:
            best = (drawn, item)
    return None if best is None else best[1]


def _draws(request: str, purpose: str) -> random.Random:
    return random.Random(f"{purpose}\x1f{request}")
