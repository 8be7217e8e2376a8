"""The Open Bandit Dataset's sample: what a fashion shop showed and what was clicked, under two policies.

Saito, Aihara, Matsutani & Narita, "Open Bandit Dataset and Pipeline", NeurIPS 2021, CC BY 4.0. Three campaigns, 10,000 impressions
under each of two policies in the same week of 2019: ``random`` showed any item with equal probability, ``bts`` was Bernoulli
Thompson sampling. It is inside the package ``obp``, which is neither installed nor imported.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.sources.wheel import Wheel, read

__all__ = ["CAMPAIGNS", "WHEEL", "Campaign", "Shown", "bandit_log"]

WHEEL = Wheel("obp", "0.4.1", "87dec9caf4283c25ab13036532e0a24566f1c7bdcad1653a8ded43b2f5ef8208")
Campaign = Literal["all", "men", "women"]
CAMPAIGNS: tuple[Campaign, ...] = get_args(Campaign)
USER = [f"user_feature_{number}" for number in range(4)]
POSITIONS = 3


@dataclass(frozen=True)
class Shown:
    """A policy's log.

    Attributes:
        items: Numbers of what was shown, from 0, shape (n,).
        positions: Where on the page, 0 to 2, shape (n,).
        clicks: 1 where it was clicked, shape (n,).
        propensities: Of the item at that position, as the shop logged them, shape (n,).
        contexts: Position and features of the user, one column for each value but the first, shape (n, columns); the same
            columns for both policies.
    """

    items: NDArray[np.int64]
    positions: NDArray[np.int64]
    clicks: NDArray[np.float64]
    propensities: NDArray[np.float64]
    contexts: NDArray[np.float64]

    def shares(self, items: int) -> NDArray[np.float64]:
        """How often each item was shown at each position, shape (positions, items): the policy's mean over the week."""
        counts = np.zeros((POSITIONS, items))
        np.add.at(counts, (self.positions, self.items), 1.0)
        shares: NDArray[np.float64] = counts / counts.sum(axis=1, keepdims=True)
        return shares


def bandit_log(campaign: Campaign) -> dict[str, Shown]:
    """Both policies' logs, under "random" and "bts".

    Raises:
        PenstockError: The package cannot be fetched.
    """
    frames = {
        policy: pl.read_csv(io.BytesIO(read(WHEEL, f"obp/dataset/obd/{policy}/{campaign}/{campaign}.csv")))
        for policy in ("random", "bts")
    }
    named = pl.concat([frame.select(["position", *USER]) for frame in frames.values()])
    columns = named.with_columns(pl.all().cast(pl.String)).to_dummies(drop_first=True).to_numpy()
    contexts = columns.astype(np.float64)
    found, at = {}, 0
    for policy, frame in frames.items():
        found[policy] = Shown(
            frame["item_id"].to_numpy(),
            frame["position"].to_numpy() - 1,
            frame["click"].to_numpy().astype(np.float64),
            frame["propensity_score"].to_numpy(),
            contexts[at : at + frame.height],
        )
        at += frame.height
    return found
