"""Planted faults, clean windows, estimates without truth and a million rows: what monitoring finds, beside Evidently.

Real rows of churn, housing and watch, parted anew for each split: 40 % for a linear model, 30 % for the reference, 30 %
that windows are drawn from with replacement. Evidently's defaults (DataDriftPreset) get the same reference and the same
windows, inputs and answers; it has a verdict for each column and one for all (half of the columns).

    python benchmarks/monitoring.py [--splits 20] [--clean 10] [--repeats 3] [--evidently 40] [--rows 1000000]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import numpy as np  # noqa: E402
import polars as pl  # noqa: E402

import stages  # noqa: E402, F401  (pins threads before NumPy is imported)
from benchmarks.faults import FAULTS, Fault, Stream, World, world  # noqa: E402
from penstock.monitoring.comparison import weighted_auc  # noqa: E402
from penstock.monitoring.estimation import estimate  # noqa: E402
from penstock.monitoring.judge import judge, observed  # noqa: E402
from penstock.monitoring.judged import LABEL, SCORE, TRUTH  # noqa: E402
from penstock.monitoring.sketch import observe  # noqa: E402
from penstock.monitoring.trends import Past  # noqa: E402

DATASETS = ("churn", "housing", "watch")
PATIENCE = 24  # windows until a fault counts as missed
HISTORY = 10  # clean windows before a fault


def evidently(here: World, frame: pl.DataFrame) -> tuple[bool, bool]:
    """Whether Evidently calls any column drifted, and whether it calls all of them so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import Report
        from evidently.presets import DataDriftPreset

        names = [name for name in (*here.reference.inputs, SCORE, LABEL) if name in frame.columns]
        names = [name for name in names if name in here.reference.frame.columns]
        before, now = (each.select(names).to_pandas() for each in (here.reference.frame, frame))
        try:
            count = Report([DataDriftPreset()]).run(now, before).dict()["metrics"][0]["value"]
        except Exception:  # a type that it cannot compare: something has been found
            return True, False
    return count["count"] > 0, count["share"] >= 0.5


def clean(dataset: str, splits: int, windows: int, compared: int) -> None:
    """False alarms."""
    alarms = alerts = total = 0
    theirs: list[tuple[bool, bool]] = []
    families: Counter[str] = Counter()
    nothing = Fault(dataset, ())
    for split in range(splits):
        here = world(dataset, 1000 + split)
        stream, rng, before = Stream(here), np.random.default_rng(split), set()
        for _ in range(windows):
            frame = nothing.window(here, 0, rng)
            causes = stream.judge(frame)
            total += 1
            alarms += bool(causes)
            names = {cause.name for cause in causes}
            alerts += bool(names & before)  # a cause that comes twice in a row
            before = names
            families.update({finding.family for cause in causes for finding in cause.findings})
            if len(theirs) < compared and total % max(1, splits * windows // max(1, compared)) == 0:
                theirs.append(evidently(here, frame))
    text = f"{dataset}: {total} clean windows of {here.rows} rows, {here.reference.frame.height} in the reference: "
    text += f"{alarms} called out ({alarms / total * 100:.1f} %), {alerts} would be alerts"
    if theirs:
        text += f"; Evidently of {len(theirs)}: {sum(a for a, _ in theirs)} any column, {sum(b for _, b in theirs)} all"
    print(f"{text}; by family {dict(families)}", flush=True)


def faults(datasets: Sequence[str], repeats: int, *, with_evidently: bool) -> None:
    """Delays."""
    print(f"{'fault':<46}{'data':<9}{'found':<7}{'delay: median':<15}{'longest':<9}{'Evidently':<22}as")
    for name, fault in FAULTS.items():
        if fault.dataset not in datasets:
            continue
        delays, said, theirs = [], "", []
        for repeat in range(repeats):
            delay, words, their = _delay(fault, repeat, with_evidently=with_evidently)
            theirs.append(their)
            if delay is not None:
                delays.append(delay)
                said = said or words
        found = f"{len(delays)}/{repeats}"
        middle = f"{statistics.median(delays):g}" if delays else "–"
        longest = str(max(delays, default="–"))
        columns, every = (sum(side) for side in zip(*theirs, strict=True))
        other = f"{columns}/{repeats} column, {every}/{repeats} all" if with_evidently else ""
        print(
            f"{name:<46}{fault.dataset:<9}{found:<7}{middle:<15}{longest:<9}{other:<22}{said[:150]}",
            flush=True,
        )


def _delay(fault: Fault, repeat: int, *, with_evidently: bool) -> tuple[int | None, str, tuple[bool, bool]]:
    here = _world(fault.dataset, repeat)
    stream, rng = (
        Stream(here, past=list(_history(fault.dataset, repeat))),
        np.random.default_rng(100 + repeat),
    )
    for step in range(1, PATIENCE + 1):
        frame = fault.window(here, step, rng)
        right = [cause for cause in stream.judge(frame) if cause.name in fault.causes]
        if right:
            # Evidently sees the very window in which the fault was found.
            return step, right[0].headline, evidently(here, frame) if with_evidently else (False, False)
    return None, "", evidently(here, frame) if with_evidently else (False, False)


@cache
def _history(dataset: str, repeat: int) -> tuple[Past, ...]:
    """What clean windows leave."""
    stream, rng = Stream(_world(dataset, repeat)), np.random.default_rng(200 + repeat)
    for _ in range(HISTORY):
        stream.judge(Fault(dataset, ()).window(stream.world, 0, rng))
    return tuple(stream.past)


_WORLDS: dict[tuple[str, int], World] = {}


def _world(dataset: str, repeat: int) -> World:
    if (dataset, repeat) not in _WORLDS:
        _WORLDS[dataset, repeat] = world(dataset, repeat)
    return _WORLDS[dataset, repeat]


def estimates(splits: int) -> None:
    """Estimated AUC against the true one, on shifted windows of churn."""
    shifts = {
        "none": lambda pool: np.ones(pool.height),
        "fibre four times as often": lambda pool: (
            1 + 3 * (pool["internet_service"] == "Fiber optic").to_numpy()
        ),
        "hardly any contract of years": lambda pool: 0.05 + (pool["contract"] == "Month-to-month").to_numpy(),
        "new customers": lambda pool: 0.02 + (1 - pool["tenure"].to_numpy() / 72) ** 3,
        "old customers": lambda pool: 0.02 + (pool["tenure"].to_numpy() / 72) ** 2,
        "cheap tariffs": lambda pool: 0.02 + (1 - pool["monthly_charges"].to_numpy() / 120) ** 3,
        "seniors": lambda pool: 0.2 + (pool["senior_citizen"] == 1).to_numpy(),
    }
    for name, weights in shifts.items():
        found = []
        for split in range(splits):
            here = _world("churn", split)
            rng, reference = np.random.default_rng(split), here.reference
            here.rows, rows = 2000, here.rows
            frame = here.answered(here.window(rng, weights(here.pool)))
            here.rows = rows
            sketch = observe(frame, reference.coding, reference.embedding, reference.target)
            expected = estimate(reference, frame)
            truth, held = float(weighted_auc(sketch.ranking)), float(weighted_auc(reference.sketch.ranking))
            found.append((truth, expected.roc_auc if expected else np.nan, held, _noise(frame, rng)))
        truth, guess, held, noise = np.array(found).T
        off, stale = np.abs(guess - truth), np.abs(held - truth)
        print(
            f"estimated AUC, shift {name:<30} truth {truth.mean():.3f}, estimate {guess.mean():.3f}: "
            f"{(guess - truth).mean():+.3f} ± {(guess - truth).std(ddof=1) / len(off) ** 0.5:.3f}; one window is off by {off.mean():.3f} "
            f"(largest {off.max():.3f}, within 0.02: {(off <= 0.02).mean() * 100:.0f} %); the reference's AUC is off by "
            f"{stale.mean():.3f}; the truth's own standard error {noise.mean():.3f}",
            flush=True,
        )


def _noise(frame: pl.DataFrame, rng: np.random.Generator) -> float:
    """Standard error of a window's AUC (Hanley and McNeil, 1982)."""
    positive = (frame[TRUTH] == "Yes").sum()
    negative = frame.height - positive
    from sklearn.metrics import roc_auc_score

    area = roc_auc_score((frame[TRUTH] == "Yes").to_numpy(), frame[SCORE].to_numpy())
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (positive - 1) * (q1 - area**2) + (negative - 1) * (q2 - area**2)
    return float(np.sqrt(variance / (positive * negative)))


def speed(rows: int) -> None:
    """Seconds for a window of so many rows, batch by batch."""
    here = _world("churn", 0)
    rng = np.random.default_rng(0)
    here.rows, before = 131_072, here.rows
    batch = here.answered(here.window(rng))
    here.rows = before
    count = -(-rows // batch.height)
    start = time.perf_counter()
    total = observed(batch, here.reference, here.columns)
    for _ in range(count - 1):
        total += observed(batch, here.reference, here.columns)
    counted = time.perf_counter() - start
    start = time.perf_counter()
    here.reference.calibration("inputs", total.sketch.rows)
    here.reference.calibration("truths", total.sketch.truths)
    calibrated = time.perf_counter() - start
    start = time.perf_counter()
    judge(here.reference, total)
    judged = time.perf_counter() - start
    print(
        f"{total.sketch.rows:,} rows × {len(here.columns)} columns with their truth: counted in {counted:.1f} s, judged in "
        f"{judged:.2f} s; limits for windows of that size, once, {calibrated:.1f} s",
        flush=True,
    )


def main() -> None:
    """Everything, or what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--clean", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--evidently", type=int, default=40)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--only", choices=["clean", "faults", "estimates", "speed"], default=None)
    given = parser.parse_args()
    if given.only in (None, "speed"):
        speed(given.rows)
    if given.only in (None, "estimates"):
        estimates(given.splits)
    if given.only in (None, "clean"):
        for dataset in given.datasets:
            clean(dataset, given.splits, given.clean, given.evidently)
    if given.only in (None, "faults"):
        faults(given.datasets, given.repeats, with_evidently=given.evidently > 0)


if __name__ == "__main__":
    main()
