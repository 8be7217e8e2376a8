"""What a misspelt or impossible setting says, and that what is composed can be read."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from penstock import config
from penstock.errors import PenstockError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def committed() -> dict:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def write(folder: Path, params: object) -> Path:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    return path


def changed(params: dict, where: str, value: object) -> dict:
    """A copy with one key set; the value `...` removes it."""
    params = copy.deepcopy(params)
    *parents, last = where.split(".")
    at = params
    for key in parents:
        at = at[key]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return params


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        (
            "datasets.churn.features.scael",
            "robust",
            "datasets.churn.features.scael: no such key, did you mean 'scale'?",
        ),
        ("datasets.churn.task.target", ..., "datasets.churn.task.target: missing"),
        ("datasets.churn.task.positive", ..., "`positive` is needed for a binary task"),
        (
            "datasets.churn.prepare.holdout",
            1.5,
            "datasets.churn.prepare.holdout: input should be less than 1, not 1.5",
        ),
        (
            "datasets.churn.candidates.decision_tree.model",
            "xgbost",
            "candidates.decision_tree.model: input should be 'dummy'",
        ),
        ("datasets.churn.candidates.decision_tree.features", {"scale": "log"}, "scale"),
        (
            "datasets.churn.candidates.logistic.params",
            {"C": 1},
            "fixed in `params` and searched in `space` at once: C",
        ),
        (
            "datasets.churn.candidates",
            {"line": {"model": "linear"}},
            "candidates.line: linear is not for a binary task",
        ),
        ("datasets.churn.scoring.metric", "rmse", "scoring.metric 'rmse' is not for a binary task"),
        ("datasets.churn.splitter.name", "grouped", "splitter grouped needs task.group"),
        ("datasets.churn.prepare.split", "time", "a time split needs task.time"),
        (
            "datasets.churn.contract.columns.tenure",
            {"type": "integer", "values": ["1"]},
            "`values` is for type category",
        ),
        (
            "datasets.churn.derive",
            [{"op": "log1p", "name": "tenure", "column": "tenure"}],
            "the name 'tenure' is taken",
        ),
        ("datasets.housing.sampler.name", "smote", "samplers even out classes"),
        (
            "names",
            ["churn"],
            "`names`, `pictures` and `interactions` together and the keys of `datasets` differ",
        ),
        ("seed", -1, "seed: input should be greater than or equal to 0, not -1"),
    ],
)
def test_a_wrong_setting_is_named_with_the_file(committed, tmp_path, where, value, says):
    path = write(tmp_path, changed(committed, where, value))
    with pytest.raises(PenstockError) as error:
        config.load(path)
    assert says in str(error.value)
    assert str(path) in str(error.value)
    assert "Traceback" not in str(error.value)


def test_a_stage_is_stopped_by_a_mistake_in_a_later_stage(committed, tmp_path):
    path = write(tmp_path, changed(committed, "datasets.churn.scoring.treshold", "f1"))
    with pytest.raises(PenstockError, match="did you mean 'threshold'"):
        config.load_view(config.IngestView, "churn", path)


def test_another_data_set_with_a_mistake_does_not_stop_this_one(committed, tmp_path):
    path = write(tmp_path, changed(committed, "datasets.housing.scoring.treshold", "f1"))
    assert config.load_view(config.IngestView, "churn", path).task.target == "churn"


def test_an_unknown_data_set_names_the_known_ones(committed, tmp_path):
    with pytest.raises(PenstockError, match=r"no data set 'chrun'\n.*caravan, churn, churn_calls, housing"):
        config.load_view(config.IngestView, "chrun", write(tmp_path, committed))


@pytest.mark.parametrize(
    ("text", "says"), [("a: [", "not YAML"), ("- 1", "expected a mapping"), ("\xff", "not YAML")]
)
def test_a_file_that_is_no_parameter_file(tmp_path, text, says):
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(PenstockError, match=says):
        config.load(path)


def test_a_missing_parameter_file(tmp_path):
    with pytest.raises(PenstockError, match="there is no such file"):
        config.load(tmp_path / "params.yaml")


def test_views_are_frozen(committed, tmp_path):
    view = config.load_view(config.ValidateView, "churn", write(tmp_path, committed))
    with pytest.raises(ValueError, match="frozen"):
        view.seed = 1


def test_null_takes_a_candidate_out(committed, tmp_path):
    path = write(tmp_path, changed(committed, "datasets.churn.candidates.decision_tree", None))
    assert "decision_tree" not in config.load(path).datasets["churn"].candidates


def test_a_candidate_deviates_from_the_features_of_its_data_set(committed):
    housing = config.load(ROOT / "params.yaml").datasets["housing"]
    recipe = housing.candidates["lightgbm"].recipe(housing.features)
    assert (recipe.encode, recipe.scale, recipe.clip) == ("target", "none", "none")
    assert recipe == housing.features.model_copy(update={"encode": "target", "scale": "none", "clip": "none"})
