"""What the documentation shows can be declared, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from penstock.config.rollout import Rollout

TEXT = Path("docs/rollouts.md").read_text(encoding="utf-8")
COMMON, *BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize(
    "block", BLOCKS, ids=lambda block: re.search(r"kind: (\w+)", block[block.index("strategy") :])[1]
)
def test_each_strategy_as_it_is_shown(block):
    view = Rollout.model_validate(yaml.safe_load(COMMON) | yaml.safe_load(block))
    assert view.plan().strategy.champion == "champion"


def test_every_strategy_is_shown():
    shown = {yaml.safe_load(block)["strategy"]["kind"] for block in BLOCKS}
    assert shown == {"single", "shadow", "ab", "bandit", "blue_green", "canary", "rolling"}


def test_commands_that_are_shown_exist():
    from penstock.rollout.commands import rollout

    there = {command.name or command.callback.__name__ for command in rollout.registered_commands} | {"keys"}
    assert set(re.findall(r"penstock rollout (\w+)", TEXT)) <= there
