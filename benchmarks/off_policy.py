"""Off-policy estimates on a real log, beside what really happened.

    python benchmarks/off_policy.py

For each campaign of the Open Bandit Dataset's sample: what each of its two policies would have been clicked, estimated from the
other's log, and what it was. Both ran at the same time on users drawn at random. The package that holds it is fetched once.
"""

from __future__ import annotations

import numpy as np

from penstock.examples.bandit_log import CAMPAIGNS, Shown, bandit_log
from penstock.experiments.off_policy import (
    Log,
    Value,
    doubly_robust,
    fitted_rewards,
    ips,
    on_policy,
    overlap,
    snips,
)

NAMES = {"random": "uniform", "bts": "Thompson"}


def estimates(
    source: Shown, target: Shown, *, uniform: bool, clip: float | None = None
) -> tuple[Log, list[Value]]:
    """Of the target's value, from the source's log.

    The uniform policy's probabilities are known. Those of the Thompson sampler changed all week, and only those of what it
    showed were logged: its mean policy is how often it showed each item at each position, without looking at clicks.
    """
    items = 1 + int(max(source.items.max(), target.items.max()))
    shares = np.full((3, items), 1 / items) if uniform else target.shares(items)
    policy = shares[source.positions]
    log = Log(source.clicks, source.propensities, policy[np.arange(len(policy)), source.items])
    model = fitted_rewards(log, source.contexts, source.items, policy, model="logistic")
    return log, [ips(log, clip=clip), snips(log, clip=clip), doubly_robust(log, *model, clip=clip)]


def main() -> None:
    print("clicks per 1,000 impressions (95 % interval)\n")
    print(
        "| campaign | policy | from the log of | effective rows | IPS | SNIPS | doubly robust | on-policy |"
    )
    print("|---|---|---|---:|---|---|---|---|")
    for campaign in CAMPAIGNS:
        logs = bandit_log(campaign)
        for target, source in (("bts", "random"), ("random", "bts")):
            log, found = estimates(logs[source], logs[target], uniform=target == "random")
            truth = on_policy(logs[target].clicks)
            known = overlap(log)
            cells = [_told(value) + ("" if value.covers(truth.value) else " ✗") for value in found]
            rows = f"{known.effective:,.0f}{'' if known.trusted else ' (too few)'}"
            row = [campaign, NAMES[target], NAMES[source], rows, *cells, _told(truth)]
            print(f"| {' | '.join(row)} |")


def _told(value: Value) -> str:
    return f"{1000 * value.value:.1f} ({1000 * value.low:.1f} to {1000 * value.high:.1f})"


if __name__ == "__main__":
    main()
