"""One number that makes probabilities honest: the logits are divided by it, and no label changes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

__all__ = ["fit_temperature", "measure", "negative_log_likelihood", "probabilities"]

BOUNDS = (0.05, 20.0)  # a network is not wrong about its confidence by more
DIGITS = 6  # as the manifest has it; the graph holds the same


def negative_log_likelihood(
    logits: NDArray[np.floating], codes: NDArray[np.integer], temperature: float
) -> float:
    """Mean over pictures of −log p of the right class, in nats.

    Args:
        logits: Shape (n, K).
        codes: The right class of each, shape (n,).
        temperature: What the logits are divided by.
    """
    logs = log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return float(-logs[np.arange(len(codes)), codes].mean())


def fit_temperature(logits: NDArray[np.floating], codes: NDArray[np.integer]) -> float:
    """The temperature of least negative log-likelihood, on pictures that the network did not learn from.

    Returns:
        Between 0.05 and 20; 1 where every answer is right, since colder would then be better without end,
        and where there is no answer.
    """
    if not len(codes) or (logits.argmax(axis=1) == codes).all():
        return 1.0
    # In the inverse the function is convex, hence unimodal in the logarithm, which treats 2 and ½ alike.
    found = minimize_scalar(
        lambda log: negative_log_likelihood(logits, codes, float(np.exp(log))),
        bounds=tuple(np.log(BOUNDS)),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return float(f"{np.exp(found.x):.{DIGITS}g}")


def probabilities(logits: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """What the exported graph makes of logits, shape (n, K)."""
    found: NDArray[np.float64] = softmax(logits.astype(np.float64) / temperature, axis=1)
    return found


def measure(
    logits: NDArray[np.floating], codes: NDArray[np.integer], temperature: float
) -> dict[str, float | None]:
    """Share of right labels, and the mean −log p of the right class. None where there is no picture."""
    if not len(codes):
        return {"top1": None, "log_loss": None}
    return {
        "top1": float(np.mean(logits.argmax(axis=1) == codes)),
        "log_loss": negative_log_likelihood(logits, codes, temperature),
    }
