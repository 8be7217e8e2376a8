"""When somebody is told."""

from __future__ import annotations

from penstock.config.base import View

__all__ = ["Monitor"]


class Monitor(View):
    """Limits whose breach is an alert."""
