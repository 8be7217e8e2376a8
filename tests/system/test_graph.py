"""dvc.yaml says what the code does: its parameters, its code, its files."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from penstock import config

ROOT = Path(__file__).parents[2]
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES = {name: stage.get("do", stage) for name, stage in GRAPH["stages"].items()}
# They say what a person sees, or fix what `make reproduce` would show to have changed; no output's content.
INERT = {
    "penstock/__init__.py",
    "penstock/recommend/__init__.py",
    "penstock/validation/__init__.py",
    "penstock/vision/__init__.py",
    "penstock/console.py",
    "penstock/errors.py",
    "penstock/reproducible.py",
    "penstock/without_pandas.py",
    "stages/__init__.py",
}
# Served by a parameter: `source.watch` names it where the data set comes from a package.
BY_PARAMETER = {"penstock/sources/package.py", "penstock/sources/npm.py", "penstock/sources/recordings.py"}
ALL_STAGES = config.STAGES | config.IMAGE_STAGES | config.INTERACTION_STAGES


MAKES_THE_PICTURE_MODEL = (
    "ingest",
    "images_split",
    "images_features",
    "images_head",
    "images_finetune",
    "images_export",
)
MAKES_THE_RECOMMENDER = (
    "ingest",
    "recommend_split",
    "recommend_validate",
    "recommend_train",
    "recommend_export",
)
# What `ingest` reads pictures by has no part in a table's model.
FOR_PICTURES = {"penstock/pictures.py", "penstock/sources/pictures.py", "penstock/vision/ingestion.py"}
# Nor has what it reads interactions by, in any other's.
FOR_INTERACTIONS = {"penstock/recommend/__init__.py", "penstock/recommend/ingestion.py"}
# And what it reads recordings by has none in a picture's.
FOR_RECORDINGS = {"penstock/signals.py", "penstock/sources/recordings.py"}
MAKES_THE_MODEL = ("ingest", "prepare", "features", "validate", "train", "export")


def module_file(name: str) -> str | None:
    path = ROOT / name.replace(".", "/")
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return str(file.relative_to(ROOT))
    return None


@cache
def imported(file: str) -> frozenset[str]:
    """The project's own files that a file imports, late imports included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.split(".")[0] in {"penstock", "stages"}:
                found |= {part for part in (module_file(name),) if part}
    return frozenset(found)


def closure(file: str) -> set[str]:
    seen: set[str] = set()
    todo = [file]
    while todo:
        at = todo.pop()
        if at not in seen:
            seen.add(at)
            todo.extend(imported(at))
    return seen


def covered(file: str, deps: list[str]) -> bool:
    return any(file == dep or file.startswith(f"{dep}/") for dep in deps)


def test_every_stage_has_a_module_and_every_module_a_stage():
    modules = {file.stem for file in (ROOT / "stages").glob("*.py")} - {"__init__", "layout"}
    assert modules == set(STAGES) == set(ALL_STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_all_the_code_that_it_runs(name):
    deps = [dep for dep in STAGES[name]["deps"] if isinstance(dep, str)]
    unlisted = {file for file in closure(f"stages/{name}.py") if not covered(file, deps)}
    assert unlisted - INERT - BY_PARAMETER == set()


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_no_code_that_is_not_there_or_that_it_does_not_run(name):
    used = closure(f"stages/{name}.py")
    if name == "export":
        # Its manifest holds a hash of all the code that made the model.
        used |= {file for stage in MAKES_THE_MODEL for file in closure(f"stages/{stage}.py")}
    if name == "recommend_export":
        used |= {file for stage in MAKES_THE_RECOMMENDER for file in closure(f"stages/{stage}.py")}
    if name == "images_export":
        used |= {file for stage in MAKES_THE_PICTURE_MODEL for file in closure(f"stages/{stage}.py")}
    for dep in STAGES[name]["deps"]:
        if dep.startswith(("penstock", "stages")):
            assert (ROOT / dep).exists(), dep
            assert any(covered(file, [dep]) for file in used), dep


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_rerun_by_the_parameters_that_it_sees_and_by_no_other(name):
    groups = {param.rsplit(".", 1)[-1] for param in STAGES[name]["params"]}
    assert groups == set(ALL_STAGES[name].model_fields)


def test_parameters_are_groups_and_not_leaves():
    for stage in STAGES.values():
        assert all(
            param == "seed" or re.fullmatch(r"datasets\.\$\{[^}]+\}\.\w+", param) for param in stage["params"]
        )


def test_the_order_of_the_stages_is_that_of_the_graph():
    made: set[str] = set()
    for name, stage in STAGES.items():
        for dep in stage["deps"]:
            if dep.startswith(("data/", "models/", "reports/")):
                assert dep in made, f"{name} needs {dep} before it is made"
        outs = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
        for out in outs:
            path = out if isinstance(out, str) else next(iter(out))
            made.add(path.replace("${key}", "${item.dataset}"))


def test_metrics_and_plots_are_in_git_and_data_and_models_are_not():
    for stage in STAGES.values():
        for out in [*stage.get("metrics", []), *stage.get("plots", [])]:
            assert next(iter(out.values()))["cache"] is False
        for out in stage.get("outs", []):
            path = out if isinstance(out, str) else next(iter(out))
            small = path.startswith("reports/") and not path.endswith((".html", ".jpg"))
            assert small == (not isinstance(out, str) and out[path].get("cache") is False), path


def test_every_model_is_an_artefact_and_every_plot_is_of_a_known_data_set():
    params = config.load(ROOT / "params.yaml")
    names = {*params.names, *params.pictures, *params.interactions}
    assert {entry["path"] for entry in GRAPH["artifacts"].values()} == {
        f"models/{name}/model.onnx" for name in names
    }
    plotted = {path.split("/")[1] for plot in GRAPH["plots"] for spec in plot.values() for path in spec["y"]}
    assert plotted == names


def test_the_code_hash_of_a_manifest_is_that_of_all_the_code_that_made_the_model():
    from stages.export import CODE

    assert set(CODE) == {dep for dep in STAGES["export"]["deps"] if dep.startswith(("penstock/", "stages/"))}
    made_by = {file for stage in MAKES_THE_MODEL for file in closure(f"stages/{stage}.py")} - FOR_PICTURES
    assert {file for file in made_by - INERT - FOR_INTERACTIONS if not covered(file, list(CODE))} == set()


def test_the_code_hash_of_a_manifest_of_pictures_too():
    from stages.images_export import CODE

    deps = STAGES["images_export"]["deps"]
    assert set(CODE) == {dep for dep in deps if dep.startswith(("penstock/", "stages/"))}
    made_by = {
        file for stage in MAKES_THE_PICTURE_MODEL for file in closure(f"stages/{stage}.py")
    } - FOR_RECORDINGS
    assert {file for file in made_by - INERT - FOR_INTERACTIONS if not covered(file, list(CODE))} == set()


def test_the_code_hash_of_a_manifest_of_a_recommender_too():
    from stages.recommend_export import CODE

    deps = STAGES["recommend_export"]["deps"]
    assert set(CODE) == {dep for dep in deps if dep.startswith(("penstock/", "stages/"))}
    made_by = {file for stage in MAKES_THE_RECOMMENDER for file in closure(f"stages/{stage}.py")}
    others = FOR_PICTURES | FOR_RECORDINGS | BY_PARAMETER
    assert {file for file in made_by - INERT - others if not covered(file, list(CODE))} == set()
