"""docs/transformation.md: every example gives what it says, every step and every function is there."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import get_args

import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal

from penstock import contract
from penstock.config.loading import Step
from penstock.loading.steps_expressions import FUNCTIONS
from tests.penstock.loading.stepping import traced, transformed

PAGE = (Path(__file__).parents[3] / "docs/transformation.md").read_text(encoding="utf-8")
TABLES = dict(re.findall(r"```csv (\w+)\n(.*?)```", PAGE, re.DOTALL))
EXAMPLES = re.findall(r"```yaml\n(.*?)```\n```csv\n(.*?)```", PAGE, re.DOTALL)


def _table(text: str) -> pl.DataFrame:
    frame = pl.read_csv(io.StringIO(text), infer_schema=False)
    return frame.select(
        contract.typed(name, contract.kind_of(frame[name]), pl.String()) for name in frame.columns
    )


def _title(example: tuple[str, str]) -> str:
    return "-".join(re.findall(r"op: (\w+)", example[0]))


@pytest.mark.parametrize("example", EXAMPLES, ids=_title)
def test_an_example_gives_what_it_says(example, tmp_path):
    for name in ("customers", "prices"):
        (tmp_path / f"{name}.csv").write_text(TABLES[name])
    inputs = {name: tmp_path / f"{name}.csv" for name in ("customers", "prices")}
    found = transformed(
        traced(_table(TABLES["orders"])), tmp_path, *yaml.safe_load(example[0]), inputs=inputs
    )
    found = found.drop("_source", "_position", "_load", strict=False)
    expected = pl.read_csv(io.StringIO(example[1]), infer_schema=False)
    shown = pl.read_csv(io.StringIO(found.write_csv()), infer_schema=False)
    by = [name for name in ("id",) if name in found.columns and "unpivot" not in example[0]]
    assert_frame_equal(shown.sort(by) if by else shown, expected, check_column_order=bool(by))


def test_every_step_has_an_example():
    ops = {get_args(step.model_fields["op"].annotation)[0] for step in get_args(get_args(Step)[0])}
    shown = {op for steps, _ in EXAMPLES for op in re.findall(r"op: (\w+)", steps)}
    assert shown == ops


def test_every_function_is_listed():
    listed = re.search(r"```text functions\n(.*?)```", PAGE, re.DOTALL)
    assert listed is not None
    assert set(listed[1].split()) == FUNCTIONS
