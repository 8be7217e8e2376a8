"""The command line: quick to start, clear when wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def penstock(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "penstock.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_imports_nothing_that_is_slow():
    code = (
        "import sys\nfrom penstock.cli import main\nsys.argv = ['penstock', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'numpy', 'polars', 'sklearn', 'onnxruntime', 'hydra', 'dvc', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_params_in_step_with_conf():
    assert penstock("params", "--check").returncode == 0


def test_params_out_of_step_with_conf(tmp_path):
    for name in ("conf", "hydra_plugins"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    done = penstock("params", "--check", cwd=tmp_path)
    assert done.returncode == 2
    assert "params.yaml is not the composition of conf/" in done.stderr
    assert (tmp_path / "params.yaml").read_text() == "seed: 1\n"


@pytest.mark.parametrize("arguments", [["predct"], ["predict"], ["params", "--chekc"]])
def test_a_wrong_command_is_a_usage_error(arguments):
    done = penstock(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Usage" in done.stderr


def test_a_data_set_is_written_once(tmp_path):
    (tmp_path / "conf/dataset").mkdir(parents=True)
    (tmp_path / "wine.csv").write_text(
        "acid,good\n" + "".join(f"{i / 7:.2f},{'yes' if i % 3 else 'no'}\n" for i in range(60))
    )
    first = penstock("dataset", "wine", "wine.csv", "--target", "good", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    again = penstock("dataset", "wine", "wine.csv", "--target", "good", cwd=tmp_path)
    assert again.returncode == 2
    assert "conf/dataset/wine.yaml: exists" in again.stderr
    assert penstock("dataset", "not a name", "wine.csv", "--target", "good", cwd=tmp_path).returncode == 2
