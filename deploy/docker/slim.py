"""Remove from an environment what an image never runs: `slim.py ENVIRONMENT`. Says how many bytes it was."""

import shutil
import sys
from pathlib import Path

NEVER_RUN = ("tests", "test", "testing")
# numpy.testing is imported by numpy itself.
KEPT = {("numpy", "testing"), ("sympy", "testing")}
SUFFIXES = (".pyi", ".c", ".h", ".pxd", ".pyx", ".cpp", ".hpp", ".a")


def size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(
        item.stat().st_size for item in ([path] if path.is_file() else path.rglob("*")) if item.is_file()
    )


def main(root: Path) -> int:
    """Remove it; how many bytes it was."""
    site = next(root.glob("lib/python*/site-packages"))
    folders = [
        path
        for path in site.rglob("*")
        if path.is_dir() and path.name in NEVER_RUN and (path.parent.name, path.name) not in KEPT
    ]
    files = [path for path in site.rglob("*") if path.is_file() and path.suffix in SUFFIXES]
    gone = 0
    for path in files + folders:
        if not path.exists():  # in a folder that has gone
            continue
        gone += size(path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return gone


if __name__ == "__main__":
    print(f"{main(Path(sys.argv[1])) / 1e6:.1f} MB of what is never run removed", file=sys.stderr)
