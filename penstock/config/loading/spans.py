"""Time spans as people write them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

__all__ = ["duration"]

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def duration(value: Any) -> Any:
    """``"90s"``, ``"5m"``, ``"1h30m"``, ``"7d"`` or ``"2w"`` as a time span; anything else as it is."""
    if isinstance(value, str) and re.fullmatch(r"(\d+[smhdw])+", value):
        return timedelta(
            seconds=sum(int(n) * UNITS[unit] for n, unit in re.findall(r"(\d+)([smhdw])", value))
        )
    if isinstance(value, str) and not value.startswith("P"):  # ISO 8601, which pydantic reads and writes
        raise ValueError(f"{value!r} is no time span; write 90s, 5m, 1h30m, 7d or 2w")
    return value
