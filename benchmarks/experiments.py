"""What the statistics of rollouts promise, measured by simulation.

    python benchmarks/experiments.py [EXPERIMENTS]

EXPERIMENTS (2,000) simulated experiments for each line, each looked at 100 times: how often each test finds what is not there, how often what is,
and after how many users. Then regret of bandits beside that of an A/B test on the same arms, and what a decision costs.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from penstock.experiments.assignment import Assignment, position
from penstock.experiments.bandits import Bandit, EpsilonGreedy, Policy, Thompson, Ucb
from penstock.experiments.contextual import LinearBandit
from penstock.experiments.counts import Moments, Proportion
from penstock.experiments.planning import plan_proportions
from penstock.experiments.sequential import Segment, always_valid, exact_proportions, mixture_evidence, tuning

LOOKS = 100
ALPHA = 0.05
Array = NDArray[np.float64]


def counted(p: float, q: float, units: int, experiments: int) -> tuple[Array, Array, Array, Array]:
    """Units and successes of control and treatment at each look, shape (experiments, looks)."""
    rng = np.random.default_rng(0)
    treatment = rng.binomial(units // LOOKS, 0.5, (experiments, LOOKS))
    control = units // LOOKS - treatment
    successes = rng.binomial(control, p), rng.binomial(treatment, q)
    n_c, s_c, n_t, s_t = (x.cumsum(axis=1) for x in (control, successes[0], treatment, successes[1]))
    return n_c, s_c, n_t, s_t


def mixture(counts: tuple[Array, Array, Array, Array], planned: int) -> NDArray[np.bool_]:
    """Where ``always_valid`` rejects; a test holds that it is the same."""
    n_c, s_c, n_t, s_t = counts
    shares = (s_c + 1) / (n_c + 2), (s_t + 1) / (n_t + 2)
    variance = shares[0] * (1 - shares[0]) / n_c + shares[1] * (1 - shares[1]) / n_t
    z = (s_t / n_t - s_c / n_c) / np.sqrt(variance)
    evidence = mixture_evidence(z, tuning(ALPHA) * n_c * n_t / (n_c + n_t) / (planned / 4))
    found: NDArray[np.bool_] = (evidence >= -math.log(ALPHA)) & (np.minimum(n_c, n_t) >= 50)
    return found


def once(counts: tuple[Array, Array, Array, Array]) -> NDArray[np.bool_]:
    """Where the z-test for one look rejects."""
    n_c, s_c, n_t, s_t = counts
    pooled = (s_c + s_t) / (n_c + n_t)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (s_t / n_t - s_c / n_c) / np.sqrt(pooled * (1 - pooled) * (1 / n_c + 1 / n_t))
    return np.abs(z) > 1.959964


def sequential(experiments: int) -> None:
    print(f"no difference, {experiments:,} experiments of {LOOKS} looks: found one\n")
    print("| share | users | always-valid | z at every look | z at the end |")
    print("|---:|---:|---:|---:|---:|")
    for share, units in [(0.5, 5_000), (0.1, 15_000), (0.02, 60_000), (0.002, 200_000)]:
        counts = counted(share, share, units, experiments)
        naive = once(counts)
        found = [mixture(counts, units).any(axis=1), naive.any(axis=1), naive[:, -1]]
        print(f"| {share:.1%} | {units:,} | " + " | ".join(f"{x.mean():.1%}" for x in found) + " |")
    print("\na difference: power, and users on average before it ends, as a multiple of a fixed horizon\n")
    print(
        "| share | planned for | true | fixed: users | power | always-valid: at most | power | on average |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for share, effect in [(0.1, 0.02), (0.05, 0.005), (0.3, 0.02)]:
        plan = plan_proportions(share, effect)
        for times in (1.0, 1.5, 2.0):
            counts = counted(share, share + times * effect, plan.sequential, experiments)
            found = mixture(counts, plan.sequential)
            hit = found.any(axis=1)
            ended = np.where(hit, found.argmax(axis=1) + 1, LOOKS) / LOOKS * plan.sequential
            end = once(counted(share, share + times * effect, plan.total, experiments))[:, -1]
            print(
                f"| {share:.0%} | +{100 * effect:.1f} | +{100 * times * effect:.2f} | {plan.total:,} | {end.mean():.1%} | "
                f"{plan.sequential:,} | {hit.mean():.1%} | {ended.mean() / plan.total:.2f} × |"
            )


def regret(policy: Policy, rates: Array, users: int, seed: int, batch: int = 100) -> float:
    """Conversions that were lost by not showing the best arm to everyone."""
    rng = np.random.default_rng(seed)
    bandit = Bandit.new(policy, map(str, range(len(rates))))
    lost = 0.0
    for _ in range(users // batch):
        n = rng.multinomial(batch, list(bandit.probabilities().values()))
        successes = rng.binomial(n, rates)
        lost += float((n * (rates.max() - rates)).sum())
        learnt = {
            str(i): Moments(int(k), float(s), float(s))
            for i, (k, s) in enumerate(zip(n, successes, strict=True))
        }
        bandit += Bandit(policy, learnt)
    return lost


def tested(rates: Array, users: int, planned: int, seed: int) -> float:
    """The same for an A/B test: equal shares to the planned number of users, then the arm that did best."""
    each = min(planned, users) // len(rates)
    best = int(np.random.default_rng(seed).binomial(each, rates).argmax())
    gaps = rates.max() - rates
    return float(each * gaps.sum() + (users - each * len(rates)) * gaps[best])


def bandits(runs: int = 30) -> None:
    print(
        "\nconversions lost, rewards in batches of 100 users; in brackets how many times fewer than the A/B test\n"
    )
    policies: list[tuple[str, Policy]] = [
        ("Thompson", Thompson()),
        ("floor 1 %", Thompson(0.01)),
        ("ε-greedy", EpsilonGreedy()),
        ("UCB1", Ucb()),
        ("scale 0.1", Ucb(scale=0.1)),
    ]
    print(f"| arms | users | A/B test of | A/B test | {' | '.join(name for name, _ in policies)} |")
    print("|---|---:|---:|---:|" + "---:|" * len(policies))
    for rates, effect, users in [
        ((0.1, 0.12), 0.02, 20_000),
        ((0.05, 0.07), 0.01, 20_000),
        ((0.1, 0.1, 0.1, 0.13), 0.02, 30_000),
        ((0.04, 0.05, 0.05, 0.06, 0.08), 0.01, 50_000),
    ]:
        known, planned = np.array(rates), plan_proportions(rates[0], effect, shares=(1,) * len(rates)).total
        theirs = float(np.mean([tested(known, users, planned, seed) for seed in range(500)]))
        cells = []
        for _, policy in policies:
            ours = float(np.mean([regret(policy, known, users, seed) for seed in range(runs)]))
            cells.append(f"{ours:.0f} ({theirs / ours:.1f} ×)")
        shown = " ".join(f"{rate:.0%}" for rate in rates)
        print(f"| {shown} | {users:,} | {planned:,} | {theirs:.0f} | {' | '.join(cells)} |")


def costs() -> None:
    print("\nwhat it costs\n")
    assignment = Assignment("checkout", {"a": 0.5, "b": 0.5})
    arms = {arm: Moments(1000 + 10 * i, 100.0 + i, 100.0 + i) for i, arm in enumerate("abcde")}
    bandit, linear = Bandit(Thompson(), arms), LinearBandit("abcde", 10, method="thompson")
    context = np.ones(10)
    linear.probabilities(context)
    control, treatment = Proportion(10_000, 900), Proportion(10_000, 980)
    acts: dict[str, Callable[[], object]] = {
        "assign a user to one of two arms": lambda: assignment("user-42"),
        "choose by Thompson sampling among five": lambda: bandit.choose(position("s", "decision-42")),
        "take in rewards, and its probabilities anew": lambda: Thompson().probabilities(arms),
        "choose by linear Thompson sampling, ten features": lambda: linear.choose(context, 0.5),
        "always-valid test": lambda: always_valid(control, treatment, planned=20_000),
        "exact sequential test": lambda: exact_proportions(Segment(control, treatment)),
    }
    for name, act in acts.items():
        act()
        best = math.inf
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(200):
                act()
            best = min(best, (time.perf_counter() - start) / 200)
        print(f"{name}: {best * 1e6:,.1f} µs")


def main() -> None:
    sequential(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
    bandits()
    costs()


if __name__ == "__main__":
    main()
