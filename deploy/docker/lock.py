"""Some of a lock: `lock.py LOCK LOCK … [NAME …]` prints the first whole, and of the others what NAMEs (or all) add to it.

A file that pip installs with --require-hashes may have each name once.
"""

import re
import sys
from pathlib import Path


def normal(name: str) -> str:
    """A distribution's name as registries compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(path: Path) -> dict[str, str]:
    """The lines of each name; one with two versions under two markers has both."""
    found: dict[str, str] = {}
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        pinned = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==", line)
        if pinned:
            name = normal(pinned[1])
        if name:
            found[name] = found.get(name, "") + line
    return found


def merged(locks: list[Path], names: list[str]) -> str:
    """One lock.

    Raises:
        KeyError: A name is in none of them.
    """
    first, *others = (entries(path) for path in locks)
    for other in others:
        for name, lines in other.items():
            if name not in first and (not names or name in names):
                first[name] = lines
    missing = [name for name in names if name not in first]
    if missing:
        raise KeyError(missing[0])
    return "".join(lines for _, lines in sorted(first.items()))


if __name__ == "__main__":
    locks = [Path(argument) for argument in sys.argv[1:] if argument.endswith(".lock")]
    sys.stdout.write(
        merged(locks, [normal(argument) for argument in sys.argv[1:] if not argument.endswith(".lock")])
    )
