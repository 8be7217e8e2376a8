"""What turned out: outcomes come minutes or days after their requests, to any router, perhaps twice, and count once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from penstock.config.rollout import Kpi, Rollout
from penstock.rollout.answers import compared, reward_mode
from penstock.rollout.records import Records
from penstock.rollout.shared import Shared
from penstock.rollout.state import Attribution, Reward, StateError, Store

__all__ = ["Outcome", "Outcomes", "rewards"]

MOST = 10_000  # in one message


class Outcome(msgspec.Struct, forbid_unknown_fields=True):
    """Of one row of a request.

    Attributes:
        request: Its id.
        row: From 0.
        truth: What it should have said.
        reward: What the answer was worth.
    """

    request: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    row: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 0
    truth: str | float | bool | None = None
    reward: float | bool | None = None


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """Several of them."""

    outcomes: Annotated[list[Outcome], msgspec.Meta(min_length=1, max_length=MOST)]


class Outcomes:
    """Takes them.

    Args:
        view: What is declared.
        shared: The state.
        records: Where truths are logged; None for nowhere.
    """

    def __init__(self, view: Rollout, shared: Shared, records: Records | None) -> None:
        self.view, self.shared, self.records = view, shared, records
        self._decoder = msgspec.json.Decoder(Message)

    async def take(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """A message of outcomes; status and what to say.

        An outcome of a request that is not known here (yet) is not taken: requests are known everywhere after
        ``router.flush``, so who posts it again later loses nothing.
        """
        try:
            outcomes = self._decoder.decode(body).outcomes
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return 422, {"error": f"not a message of outcomes: {error}"}
        for outcome in outcomes:
            if (problem := _wrong(outcome, self.shared.settings.plan.kpi)) is not None:
                return 422, {"error": f"outcome of {outcome.request}: {problem}"}
        try:
            await self.shared.flush()  # what was answered here a moment ago is known, too
            kpi = self.shared.settings.plan.kpi
            taken, repeated, unknown = await self.shared.written(lambda store: _taken(store, kpi, outcomes))
        except StateError:
            return 503, {
                "error": "the state does not answer; nothing of this message is lost if you post it again"
            }
        if self.records is not None:
            for outcome in taken:
                self.records.put_truth(outcome)
        told = {"taken": len(taken), "repeated": repeated, "unknown": unknown}
        return (200 if not unknown else 404 if not taken and not repeated else 207), told


def _wrong(outcome: Outcome, kpi: Kpi | None) -> str | None:
    if outcome.truth is None and outcome.reward is None:
        return "neither truth nor reward"
    if outcome.reward is not None and not math.isfinite(outcome.reward):
        return "reward is no number"
    if kpi is not None and kpi.source == "reward" and kpi.kind == "proportion" and outcome.reward is not None:
        return (
            None
            if float(outcome.reward) in (0.0, 1.0)
            else f"reward {outcome.reward} of a proportion is 0 or 1"
        )
    if (
        kpi is not None
        and kpi.source == "squared_error"
        and kpi.positive is None
        and outcome.truth is not None
    ):
        try:
            float(outcome.truth)
        except ValueError:
            return "truth is no number"
    return None


def _taken(store: Store, kpi: Kpi | None, outcomes: list[Outcome]) -> tuple[list[Outcome], int, list[str]]:
    taken, repeated, unknown = [], 0, []
    for outcome in outcomes:
        attributed = store.attributed(outcome.request)
        if not attributed:
            unknown.append(outcome.request)
            continue
        if store.settle(outcome.request, outcome.row, rewards(kpi, attributed, outcome)):
            taken.append(outcome)
        else:
            repeated += 1
    return taken, repeated, unknown


def rewards(kpi: Kpi | None, attributed: list[Attribution], outcome: Outcome) -> list[Reward]:
    """What an outcome is worth to the arms that its request was of.

    Args:
        kpi: In force.
        attributed: Of the request.
        outcome: It.
    """
    if kpi is None:
        return []
    found = []
    for one in attributed:
        if kpi.source == "reward" and one.role != "answer":
            continue
        said = one.outputs[outcome.row] if one.outputs and outcome.row < len(one.outputs) else None
        output: Mapping[str, Any] | None = said if isinstance(said, Mapping) else None
        reward = None if outcome.reward is None else float(outcome.reward)
        try:
            value = compared(kpi, output, outcome.truth, reward)
        except ValueError:
            value = None
        if value is not None:
            entered = kpi.absent == "zero"
            found.append(Reward(one.stage, one.arm, one.unit, value, reward_mode(kpi), entered, one.context))
    return found
