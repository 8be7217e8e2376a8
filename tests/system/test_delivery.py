"""The workflows: well formed, gated, and made of commands that there are."""

import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from penstock.cli import app

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())
DELIVER = ROOT / ".github" / "workflows" / "deliver.yaml"


@pytest.fixture(scope="module")
def jobs() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(DELIVER.read_text())["jobs"]
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_one(path: Path) -> None:
    program = Path(sys.executable).parent / "check-jsonschema"
    done = subprocess.run(
        [program, "--builtin-schema", "vendor.github-workflows", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def scripts() -> Iterator[tuple[str, str]]:
    for path in WORKFLOWS:
        for name, job in yaml.safe_load(path.read_text())["jobs"].items():
            for step in job["steps"]:
                if "run" in step:
                    yield f"{path.name}: {name}", step["run"]
    buildspec = yaml.safe_load((ROOT / "deploy" / "aws" / "retraining.yaml").read_text())
    for phase, content in buildspec["phases"].items():
        yield f"retraining.yaml: {phase}", "\n".join(content["commands"])


def commands(program: str) -> list[tuple[str, list[str]]]:
    """Invocations of a program in all scripts, as words; what a variable holds stands as its name."""
    found = []
    for place, script in scripts():
        for line in script.replace("\\\n", " ").splitlines():
            if not re.match(rf"\s*{program}\s", line):
                continue
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
            lexer.whitespace_split = True
            words = list(itertools.takewhile(lambda word: word[0] not in "|&;>", lexer))
            found.append((place, words[1:]))
    return found


def test_every_command_of_penstock_is_one() -> None:
    """Parsed by the program itself, down to options and arguments."""
    asked = commands("penstock")
    assert len(asked) >= 9
    for place, words in asked:
        command: click.Command = typer.main.get_command(app)
        context = click.Context(command)
        rest = list(words)
        while isinstance(command, click.Group):
            found = command.get_command(context, rest.pop(0))
            assert found is not None, (place, words)
            command = found
        try:
            command.make_context(words[0], rest)  # raises on what it does not know or lacks
        except click.UsageError as error:
            pytest.fail(f"{place}: penstock {' '.join(words)}: {error.format_message()}")


def test_everything_else_that_is_called_is_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert {words[0] for _, words in commands("make")} <= targets
    called = {
        word for _, script in scripts() for word in re.findall(r"(?:^|\s)((?:\.ci|deploy)/[\w/.-]+)", script)
    }
    assert "deploy/docker/build" in called
    assert all((ROOT / path).is_file() for path in called), called
    source = (ROOT / "Makefile").read_text()
    for _, words in commands("make"):
        for extra in "".join(
            word.removeprefix("EXTRAS=") for word in words if word.startswith("EXTRAS=")
        ).split():
            assert (ROOT / "locks" / f"{extra}.lock").is_file()
            assert extra in source


def test_the_order_is_verify_shadow_person_production(jobs: dict[str, Any]) -> None:
    assert jobs["image"]["needs"] == "verify"
    assert set(jobs["shadow"]["needs"]) == {"verify", "image"}
    assert "shadow" in jobs["production"]["needs"]
    # An environment is where GitHub asks a person; and what AWS's trust names.
    environments = {name: job["environment"] for name, job in jobs.items()}
    assert environments == {
        "verify": "shadow", "image": "shadow", "shadow": "shadow", "production": "production", "rollback": "production",
    }  # fmt: skip
    verified = next(
        i for i, step in enumerate(jobs["verify"]["steps"]) if "penstock verify" in step.get("run", "")
    )
    uploaded = next(
        i for i, step in enumerate(jobs["verify"]["steps"]) if "upload-artifact" in step.get("uses", "")
    )
    assert verified < uploaded  # what goes on is what was verified


def test_a_shift_that_fails_is_closed_by_itself(jobs: dict[str, Any]) -> None:
    steps = jobs["production"]["steps"]
    (shift,) = [i for i, step in enumerate(steps) if "deploy aws promote" in step.get("run", "")]
    back = steps[shift + 1]
    assert back["if"] == "failure()"
    assert "deploy aws rollback --unfinished" in back["run"]


def test_no_job_may_more_than_it_needs(jobs: dict[str, Any]) -> None:
    assert yaml.safe_load(DELIVER.read_text())["permissions"] == {}
    for name, job in jobs.items():
        assert job["permissions"] == {"contents": "read", "id-token": "write"}, name
        assert job["timeout-minutes"] <= 180, name
        for step in job["steps"]:
            if "actions/checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_no_script_is_put_together_from_what_others_write() -> None:
    """A tag's name is text from outside: it reaches a script as a variable, never as a part of it."""
    for place, script in scripts():
        assert "${{" not in script, place
