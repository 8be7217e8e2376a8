"""Entries that each carry the hash of the one before: what was written cannot be changed, or taken out of the middle, unnoticed.

Who can write the file can write all of it anew; keep the last hash elsewhere if that is to be noticed, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["GENESIS", "digest"]

GENESIS = "0" * 64  # before the first


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of an entry, in one spelling of JSON.

    Args:
        content: All of it but its own hash.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
