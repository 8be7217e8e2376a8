"""Processes that share a port: who stops the program, and who is only started again. With real processes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from penstock.console import USER_ERROR
from tests.servers.programs import until

ROOT = Path(__file__).parents[2]
PROGRAM = """
    import sys, time
    from pathlib import Path
    from penstock.errors import PenstockError
    from penstock.http_serving import several

    folder, moods = Path(sys.argv[1]), sys.argv[2].split(",")

    def run(slot, beat):
        if moods[slot] == "fails" and moods.count("serves"):
            while not list(folder.glob("serves-*")):
                time.sleep(0.01)
        (folder / f"{moods[slot]}-{slot}").open("a").write("began ")
        if moods[slot] == "fails":
            raise PenstockError("its artefact is no artefact")
        while True:
            beat()
            (folder / f"serves-{slot}").touch()
            time.sleep(0.02)

    sys.exit(several(len(moods), run, "test", patience=30.0))
"""


def program(folder: Path, moods: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(folder), moods]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


@pytest.mark.parametrize("moods", ["fails", "fails,fails"])
def test_where_no_process_can_begin_the_program_says_why_and_ends(tmp_path, moods):
    with program(tmp_path, moods) as process:
        assert process.wait(60) == USER_ERROR
        assert process.stderr is not None
        assert b"no artefact" in process.stderr.read()


def test_one_that_cannot_begin_does_not_end_those_that_serve(tmp_path):
    with program(tmp_path, "serves,fails") as process:
        try:
            # It is tried again and again, while the other serves.
            until((tmp_path / "fails-1").exists, "the first try", process)
            until(lambda: (tmp_path / "fails-1").read_text().count("began") >= 2, "another try", process)
            assert process.poll() is None
        finally:
            process.terminate()
            assert process.wait(30) == 0
