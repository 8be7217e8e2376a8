"""Importing this keeps pandas out of the process: scikit-learn and LightGBM load it wherever it is installed.

It is installed for the one source that needs it. Loading it costs each stage that fits or exports over a second,
for nothing: frames are polars here. To be imported by what runs as a process of its own, before scikit-learn.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

# Looks for pandas, without loading it, while it is imported itself: it must come first.
import polars as pl  # noqa: F401

__all__: list[str] = []


class _Refusal(MetaPathFinder):
    """Says of pandas, and of nothing else, that it is not there."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is kept out of this process", name="pandas")


sys.meta_path.insert(0, _Refusal())
