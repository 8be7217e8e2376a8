"""conf/ and params.yaml are in step; a data set is one file; an experiment is an overlay."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from penstock import composition, config
from penstock.errors import PenstockError

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(file.stem for file in (ROOT / "conf/experiment").glob("*.yaml"))
# DVC takes a parameter of either name for the size or file count of an output and leaves it out of the
# run cache's key, which then restores stale outputs.
INVISIBLE_TO_THE_RUN_CACHE = {"size", "nfiles"}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A repository of configuration alone."""
    for name in ("conf", "hydra_plugins"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def names_in(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {name for item in value.values() for name in names_in(item)}
    if isinstance(value, list):
        return {name for item in value for name in names_in(item)}
    return set()


def test_params_yaml_is_the_composition_of_conf():
    assert (ROOT / "params.yaml").read_text() == composition.compose(ROOT), "run `make params`"


@pytest.mark.parametrize("overrides", [[], *([f"experiment={name}"] for name in EXPERIMENTS)], ids=str)
def test_no_parameter_is_invisible_to_the_run_cache(overrides):
    composed = yaml.safe_load(composition.compose(ROOT, overrides))
    assert not names_in(composed) & INVISIBLE_TO_THE_RUN_CACHE


def test_no_view_has_a_field_that_is_invisible_to_the_run_cache():
    schema = config.Params.model_json_schema()
    fields = {name for part in [schema, *schema["$defs"].values()] for name in part.get("properties", {})}
    assert not fields & INVISIBLE_TO_THE_RUN_CACHE


@pytest.mark.parametrize("group", sorted(p.parent.name for p in (ROOT / "conf").glob("*/*.yaml")))
def test_every_group_is_a_folder_of_answers(group):
    assert list((ROOT / "conf" / group).glob("*.yaml"))


@pytest.mark.parametrize(
    ("group", "option"),
    sorted(
        (file.parent.name, file.stem)
        for file in (ROOT / "conf").glob("*/*.yaml")
        if file.parent.name in {"features", "sampler", "splitter", "search"}
    ),
)
def test_every_option_of_every_group_fits_a_data_set(group, option):
    overrides = ["dataset=churn", f"{group}@datasets.churn.{group}={option}"]
    if option in {"grouped", "stratified_grouped"}:
        overrides.append("+datasets.churn.task.group=payment_method")
    if option == "time":
        overrides.append("+datasets.churn.task.time=tenure")
    chosen = yaml.safe_load(composition.compose(ROOT, overrides))["datasets"]["churn"][group]
    assert chosen == yaml.safe_load(composition.compose(ROOT, overrides))["datasets"]["churn"][group]
    assert set(chosen) <= set(config.Dataset.model_fields[group].annotation.model_fields)


@pytest.mark.parametrize("option", sorted(file.stem for file in (ROOT / "conf/model").glob("*.yaml")))
def test_every_model_is_a_candidate(option):
    candidate = config.Candidate.model_validate(
        yaml.safe_load((ROOT / f"conf/model/{option}.yaml").read_text())
    )
    assert option.startswith(candidate.model)


def test_there_are_three_experiments():
    assert len(EXPERIMENTS) >= 3


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_changes_something(name):
    assert composition.compose(ROOT, [f"experiment={name}"]) != composition.compose(ROOT)


def test_a_file_under_conf_dataset_is_a_data_set(copy):
    (copy / "conf/dataset/wine.yaml").write_text(
        "defaults: [/base/binary@_here_, _self_]\n"
        "task: {target: good, positive: 1}\n"
        "source: {path: data/inbox/wine.csv}\n"
    )
    params = yaml.safe_load(composition.compose(copy))
    assert params["names"] == ["caravan", "churn", "churn_calls", "housing", "watch", "wine"]
    assert params["datasets"]["wine"]["source"]["watch"] == "data/inbox/wine.csv"
    assert params["datasets"]["churn"] == yaml.safe_load(composition.compose(ROOT))["datasets"]["churn"]


def test_a_copied_file_does_not_overwrite_the_data_set_it_was_copied_from(copy):
    shutil.copy(copy / "conf/dataset/churn.yaml", copy / "conf/dataset/mine.yaml")
    params = yaml.safe_load(composition.compose(copy))
    assert params["datasets"]["mine"] == params["datasets"]["churn"]


def test_what_does_not_compose_leaves_params_yaml_alone(copy):
    composition.write_params(copy)
    before = (copy / "params.yaml").read_bytes()
    with (copy / "conf/dataset/churn.yaml").open("a") as file:
        file.write("scorign: {metric: f1}\n")
    with pytest.raises(PenstockError, match=r"datasets.churn.scorign: no such key, did you mean 'scoring'\?"):
        composition.write_params(copy)
    assert (copy / "params.yaml").read_bytes() == before


def test_an_unknown_option_is_named_with_the_known_ones(copy):
    with pytest.raises(PenstockError, match=r"Could not find 'dataset/wine'[\s\S]*churn_calls"):
        composition.compose(copy, ["dataset=wine"])
