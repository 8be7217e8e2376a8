"""What both pages share: the templates, and how they write values."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from penstock.report import wording

__all__ = ["render"]


@cache
def _environment() -> Environment:
    # Autoescape is for every template, whatever its name: names and categories come from data.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates", encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "figure": wording.figure,
        "number": wording.number,
        "percent": wording.share,
        "metric": wording.metric,
    }
    return environment


def render(template: str, **context: Any) -> str:
    """Fill a template; a value that it names and ``context`` lacks is an error."""
    return _environment().get_template(template).render(context)
