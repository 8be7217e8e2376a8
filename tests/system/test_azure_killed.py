"""`penstock deploy azure apply`, killed in the middle, goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.penstock.deploy.conftest import (  # noqa: F401 - fixtures
    blob_storage,
    containers,
    repository,
    settings,
    stand_in,
)
from tests.servers.azure_stand_in import StandIn
from tests.servers.azurite import Azurite
from tests.servers.programs import until

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("at", ["/deployments/penstock-foundation", "/deployments/blue"])
def test_killed_at_any_step_it_goes_on(
    stand_in: StandIn,  # noqa: F811
    settings: dict[str, object],  # noqa: F811
    blob_storage: Azurite,  # noqa: F811
    repository: Path,  # noqa: F811
    at: str,
):
    overrides = [f"{key}={settings[key]}" for key in ("subscription", "image", "deployer", "url", "storage")]
    environment = {**os.environ, "REQUESTS_CA_BUNDLE": str(blob_storage.authority), "PYTHONPATH": str(ROOT)}

    def run(verb: str, *options: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "penstock.cli",
            "deploy",
            "azure",
            verb,
            *options,
            "azure",
            *overrides,
        ]
        return subprocess.Popen(
            command,
            cwd=repository,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    stand_in.held = {at}
    first = run("apply")
    until(lambda: any(r.method == "PUT" and r.path.endswith(at) for r in list(stand_in.requests)), "the step")
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    before = len(stand_in.writes())
    stand_in.held = set()
    second = run("apply")
    said = second.communicate(timeout=120)[0]
    assert second.returncode == 0, said
    assert stand_in.named("/onlineEndpoints/penstock-churn")["properties"]["traffic"] == {"blue": 100}
    again = stand_in.writes()[before:]
    assert not set(again) & {w for w in stand_in.writes()[:before] if not w.endswith((at, "/penstock-churn"))}
    third = run("plan", "--exit-code")
    assert "nothing to do" in third.communicate(timeout=120)[0]
    assert third.returncode == 0
