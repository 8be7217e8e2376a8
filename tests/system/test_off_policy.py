"""On the log of a real shop, what one policy earned is within what was estimated from the other's log."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.examples.bandit_log import CAMPAIGNS, Campaign, bandit_log
from penstock.experiments.off_policy import Log, doubly_robust, fitted_rewards, ips, on_policy, overlap, snips


@pytest.mark.parametrize("campaign", CAMPAIGNS)
@pytest.mark.parametrize("target", ["bts", "random"])
def test_estimates_cover_what_happened(campaign: Campaign, target: str) -> None:
    logs = bandit_log(campaign)
    wanted, source = logs[target], logs["random" if target == "bts" else "bts"]
    items = 1 + int(max(wanted.items.max(), source.items.max()))
    shares = np.full((3, items), 1 / items) if target == "random" else wanted.shares(items)
    policy = shares[source.positions]
    log = Log(source.clicks, source.propensities, policy[np.arange(len(policy)), source.items])
    model = fitted_rewards(log, source.contexts, source.items, policy, model="logistic")
    happened = on_policy(wanted.clicks).value
    for found in (ips(log), snips(log), doubly_robust(log, *model)):
        assert found.covers(happened), found
    # One item that Thompson sampling showed to women had a propensity of one in a million.
    assert overlap(log).trusted is not (campaign == "women" and target == "random")


def test_the_log_is_the_one_that_was_published() -> None:
    logs = bandit_log("all")
    assert [len(log.clicks) for log in logs.values()] == [10_000, 10_000]
    assert [int(log.clicks.sum()) for log in logs.values()] == [38, 42]
    assert set(logs["random"].propensities) == {1 / 80}
    assert {len(log.contexts[0]) for log in logs.values()} == {len(logs["bts"].contexts[0])}
