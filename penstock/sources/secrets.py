"""Secrets: named in conf/ as ``${secret:NAME}``, found in the environment or in a file that git ignores.

They are put in at the last moment, where a connection is made, and taken out of whatever is said about it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

from penstock.errors import PenstockError

__all__ = ["SECRETS_FILE", "hidden", "hiding", "revealed"]

SECRETS_FILE = Path("conf/secrets.yaml")
PATTERN = re.compile(r"\$\{secret:([A-Za-z_][A-Za-z0-9_]*)\}")
MASK = "•••"
SHORTEST = 4  # characters; what is shorter would mask ordinary words

_revealed: set[str] = set()


def revealed(text: str, *, url: bool = False, file: Path = SECRETS_FILE) -> str:
    """Put the secrets in.

    Args:
        text: With ``${secret:NAME}`` in it.
        url: Whether to quote what an address would take for its own.
        file: YAML of names and values, for what the environment lacks.

    Raises:
        PenstockError: There is no such secret, or others may read the file.
    """

    def found(match: re.Match[str]) -> str:
        value = _value(match[1], file)
        _revealed.add(value)
        return quote(value, safe="") if url else value

    return PATTERN.sub(found, text)


def _value(name: str, file: Path) -> str:
    if name in os.environ:
        return os.environ[name]
    if file.is_file():
        if file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            raise PenstockError(f"{file}: others can read it", hint=f"chmod 600 {file}")
        import yaml

        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        if isinstance(values, dict) and name in values:
            return str(values[name])
    raise PenstockError(
        f"there is no secret {name!r}",
        hint=f"set it in the environment, or as `{name}: …` in {file}, which git ignores",
    )


def hidden(text: str) -> str:
    """``text`` without any secret that was put in anywhere, nor the password of any address."""
    for value in sorted(_revealed, key=len, reverse=True):
        for form in {value, quote(value, safe=""), quote_plus(value), unquote(value)}:
            if len(form) >= SHORTEST:
                text = text.replace(form, MASK)
    return re.sub(r"(\w+://[^/\s:@]*):[^/\s@]+@", rf"\1:{MASK}@", text)


@contextmanager
def hiding() -> Iterator[None]:
    """Turn any error inside into one whose text shows no secret."""
    try:
        yield
    except PenstockError as error:
        hint = None if error.hint is None else hidden(error.hint)
        raise PenstockError(hidden(error.message), hint=hint) from None
