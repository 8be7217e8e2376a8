"""How large the predictor's image is, and how soon it answers: `python benchmarks/predictor_image.py [--model models/churn] [--rootfs]`.

Beside it the environment that trains, as what an image would hold that nobody had taken apart. Built without a daemon by
deploy/docker/bare; with --rootfs on a minimal Debian too (debootstrap, as root; a minute and a network), in which the image's command
is then run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "deploy" / "docker"


def megabytes(folder: Path) -> float:
    """Of the files of a folder; what is linked twice counts once."""
    seen: dict[tuple[int, int], int] = {}
    for path in folder.rglob("*"):
        about = path.lstat()
        if not path.is_dir():
            seen[about.st_dev, about.st_ino] = about.st_size
    return sum(seen.values()) / 1e6


def environment() -> dict[str, str]:
    found = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    return found | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{found['PATH']}"}


def command() -> list[str]:
    """CMD of the Dockerfile."""
    text = (DOCKER / "predictor.Dockerfile").read_text(encoding="utf-8")
    found: list[str] = json.loads(re.findall(r"^CMD (.+)$", text, flags=re.M)[-1])
    return found


@contextlib.contextmanager
def served(words: Sequence[str], srv: Path, port: int) -> Iterator[tuple[float, float]]:
    """Run it; seconds from the start until it is ready, and seconds of a processor that it took, which others on the machine do not change."""
    began = time.perf_counter()
    process = subprocess.Popen(
        words, cwd=srv, stderr=subprocess.DEVNULL, env=environment() | {"PYTHONDONTWRITEBYTECODE": "1"}
    )
    try:
        while True:
            if process.poll() is not None:
                raise SystemExit(f"{words[0]} ended with {process.returncode}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2) as answer:
                    if answer.status == 200:
                        break
            except (urllib.error.URLError, OSError):
                time.sleep(0.005)
        ready = time.perf_counter() - began
        ticks = (
            Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[11:13]
        )
        yield ready, sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def starts(binary: Path, srv: Path, times: int, port: int) -> list[tuple[float, float]]:
    """Seconds of each of several starts."""
    here = [
        "host=127.0.0.1" if word.startswith("host=") else word
        for word in command()[1:]
        if not word.startswith("keys=")
    ]
    took = []
    for _ in range(times):
        with served([str(binary), *here, f"port={port}"], srv, port) as seconds:
            took.append(seconds)
    return took


def rootfs(folder: Path, tree: Path, srv: Path, port: int) -> None:
    """A minimal Debian with Python, the tree in it, and the command run there as a user of its own."""
    root = folder / "rootfs"
    packages = "python3.11-minimal,libpython3.11-stdlib"
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(root)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    for name in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(root / name, ignore_errors=True)
    base = megabytes(root)
    # Moved: a virtual environment is where its Python is said to be.
    shutil.copytree(tree, root / "opt" / "penstock", symlinks=True)
    for path in (root / "opt/penstock/bin").glob("python*"):
        path.unlink()
        path.symlink_to("/usr/bin/python3.11")
    shutil.copytree(srv, root / "srv", dirs_exist_ok=True)
    print(f"Debian with Python {base:.0f} MB, whole image {megabytes(root):.0f} MB (limit 400)")
    words = [word for word in command()[2:] if not word.startswith(("keys=", "host="))]
    inside = [
        "chroot",
        "--userspec=10001:10001",
        str(root),
        "/usr/bin/env",
        "-C",
        "/srv",
        "HOME=/nonexistent",
    ]
    with served(
        [*inside, "/opt/penstock/bin/python3.11", "-m", "penstock.cli", "serve", *words, f"port={port}"],
        srv,
        port,
    ) as (seconds, _):
        print(f"in it, as nobody in particular: ready in {seconds:.2f} s")


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "churn")
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--port", type=int, default=8599)
    parser.add_argument("--rootfs", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([str(DOCKER / "bare"), "predictor", str(folder)], check=True, env=environment())
        tree = folder / "penstock"
        size, training = megabytes(tree), megabytes(Path(sys.prefix).resolve())
        print(
            f"predictor's environment {size:.0f} MB; the one that trains {training:.0f} MB: {training / size:.0f} times as large"
        )
        bill = json.loads((folder / "sbom.cdx.json").read_text(encoding="utf-8"))
        print(f"{len(bill['components'])} components in its bill of materials")
        srv = folder / "srv"
        shutil.copytree(
            arguments.model, srv / "models" / arguments.model.name, ignore=shutil.ignore_patterns("*.skops")
        )
        took = starts(tree / "bin" / "penstock", srv, arguments.times, arguments.port)
        wall, cpu = ([pair[which] for pair in took] for which in (0, 1))
        print(
            f"from start to ready, {arguments.model.name}: median {statistics.median(wall):.2f} s, most {max(wall):.2f} s "
            f"(limit 2); of a processor, median {statistics.median(cpu):.2f} s"
        )
        if arguments.rootfs:
            rootfs(folder, tree, srv, arguments.port)


if __name__ == "__main__":
    main()
