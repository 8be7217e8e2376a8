"""Whether the ONNX file of a recommender answers as the arrays that it was written from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.artifact.recommender_model import RecommenderModel
from penstock.config import InteractionExport
from penstock.errors import PenstockError
from penstock.recommend.model import Recommender

__all__ = ["Parity", "prove", "require"]

DIVERSITIES = (0.0, 0.3)


@dataclass(frozen=True)
class Parity:
    """How far the two are apart.

    Attributes:
        users: How many were asked for, each with all of these diversities, alone and together.
        max_difference: Of two scores at one place.
        disagreement: Share of places with another item.
        because_disagreement: Share of places of the same item with another reason.
        batch_difference: Of two scores of one request, asked alone and with others.
    """

    users: int
    max_difference: float
    disagreement: float
    because_disagreement: float
    batch_difference: float

    def as_dict(self) -> dict[str, Any]:
        """For parity.json."""
        return asdict(self)


def prove(
    model: Recommender,
    artefact: RecommenderModel,
    pasts: Sequence[NDArray[np.int64]],
    *,
    k: int,
    advance: Callable[[float], None] = lambda _: None,
) -> Parity:
    """Ask both for everyone, and for one of whom nothing is known.

    Args:
        model: The arrays.
        artefact: The file.
        pasts: Ids of each user's history.
        k: Length of a list.
        advance: Called with the number of users that are done.
    """
    limits = artefact.manifest.limits
    requests = [artefact.within_limits(past) for past in (*pasts, np.empty(0, np.int64))]
    gaps, places, reasons, batches = [], [], [], []
    for start in range(0, len(requests), limits.batch):
        part = requests[start : start + limits.batch]
        for diversity in DIVERSITIES:
            histories, exclude = [one[0] for one in part], [one[1] for one in part]
            together = artefact.recommend(histories, k=k, exclude=exclude, diversity=diversity)
            for row, (history, barred) in enumerate(part):
                expected = model.recommend(history, k=k, exclude=barred, diversity=diversity)
                alone = artefact.recommend([history], k=k, exclude=[barred], diversity=diversity)
                same = alone.items[0] == expected.items[0]
                gaps.append(np.abs(alone.scores - expected.scores).max())
                batches.append(np.abs(alone.scores[0] - together.scores[row]).max())
                places.append(~same)
                reasons.append((alone.because != expected.because)[0][same])
        advance(len(part))
    return Parity(
        users=len(pasts),
        max_difference=float(max(gaps)),
        disagreement=float(np.concatenate(places).mean()),
        because_disagreement=float(np.concatenate(reasons).mean()),
        batch_difference=float(max(batches)),
    )


def require(found: Parity, settings: InteractionExport) -> None:
    """Fail where the two are further apart than is allowed.

    Raises:
        PenstockError: They are.
    """
    bounds = {
        "max_difference": (found.max_difference, settings.max_difference),
        "batch_difference": (found.batch_difference, settings.max_difference),
        "disagreement": (found.disagreement, settings.max_disagreement),
        "because_disagreement": (found.because_disagreement, settings.max_disagreement),
    }
    broken = [
        f"{name} {value:.2e}, allowed {allowed:.2e}"
        for name, (value, allowed) in bounds.items()
        if not value <= allowed
    ]
    if broken:
        raise PenstockError(
            f"export: the ONNX file does not answer as the model: {'; '.join(broken)}",
            hint="look at parity.json; raise export.max_difference or max_disagreement only if you know why",
        )
