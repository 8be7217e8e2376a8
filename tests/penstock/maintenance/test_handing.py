"""What a rollout does with a challenger that was handed over, and what becomes of arms of before."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.config.maintenance import ByRollout
from penstock.errors import PenstockError
from penstock.maintenance.handing import arm_of, fate, hand_over
from penstock.rollout.audit import Intent
from penstock.rollout.declared import declared
from penstock.rollout.desk import Desk
from penstock.rollout.settings import Settings, promoted
from penstock.rollout.state import open_store
from tests.penstock.monitoring.answering import write_artefact, write_repository

POLICY = ByRollout(rollout="toy", steps=(5, 100))
FIRST, SECOND, THIRD = (f"2026050{day}T000000000000-condition" for day in (1, 2, 3))


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    write_repository(tmp_path)
    path = tmp_path / "conf/rollout/toy.yaml"
    path.parent.mkdir()
    path.write_text(
        "model: toy\nsalt: salt\narms: {champion: {artifact: models/toy}, mine: {artifact: models/toy}}\n"
        "strategy: {kind: single, champion: champion}\nstate: {kind: sqlite, path: state.sqlite}\n"
    )
    monkeypatch.chdir(tmp_path)
    for incident in (FIRST, SECOND, THIRD):
        write_artefact(tmp_path / "new" / incident, slope=0.05)
    return tmp_path


def with_desk(act) -> Settings:
    view = declared("toy")
    store = open_store(view)
    act(Desk(view, store))
    settings = store.settings()
    assert settings is not None
    store.close()
    return settings


def all_steps(desk: Desk) -> None:
    """As the controller does, where no harm is seen."""
    while (settings := desk.settings()).plan.strategy.kind == "canary":
        desk.store.change(settings, promoted(settings), Intent("controller", "promote", "no harm"))


def test_a_challenger_is_promoted_or_taken_back_by_the_rollout(root):
    with pytest.raises(PenstockError, match="nothing is in force"):
        hand_over(POLICY, FIRST, Path("new") / FIRST, root)
    with_desk(lambda desk: desk.begin())
    assert "5% of the requests" in hand_over(POLICY, FIRST, Path("new") / FIRST, root)
    assert fate(POLICY, FIRST, root)[0] == "under way"
    # One change at a time.
    with pytest.raises(PenstockError, match="canary is under way"):
        hand_over(POLICY, SECOND, Path("new") / SECOND, root)
    with_desk(all_steps)
    assert fate(POLICY, FIRST, root)[0] == "promoted"

    hand_over(POLICY, SECOND, Path("new") / SECOND, root)
    with_desk(lambda desk: desk.stop(arm_of(SECOND), "guardrail", "more errors"))
    assert fate(POLICY, SECOND, root) == ("kept", f"{arm_of(SECOND)} was taken out: more errors")
    with_desk(lambda desk: desk.rollback("ada", "harm"))
    assert fate(POLICY, SECOND, root)[0] == "kept"

    # What no roll-back returns to makes room; what somebody declared by hand stays.
    hand_over(POLICY, THIRD, Path("new") / THIRD, root)
    settings = with_desk(lambda _: None)
    assert set(settings.plan.arms) == {"champion", "mine", arm_of(FIRST), arm_of(THIRD)}
    assert settings.champion == arm_of(FIRST)
