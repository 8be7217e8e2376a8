"""Alerts on their way to people: Alertmanager's API (v2), or a Slack webhook."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from penstock.errors import PenstockError
from penstock.sources.secrets import hidden, revealed

__all__ = ["Notice", "post"]

POST_SECONDS = 10


@dataclass(frozen=True)
class Notice:
    """What is told.

    Attributes:
        name: Of the alert.
        about: What it is about: a load, a monitor.
        severity: "info", "warning" or "critical".
        message: One sentence.
        labels: What tells it from others, besides name and severity; the same when it begins and when it is over.
        annotations: Besides the message, such as a runbook's address.
    """

    name: str
    about: str
    severity: str
    message: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str] = field(default_factory=dict)


def post(
    url: str,
    form: Literal["alertmanager", "slack"],
    raised: Sequence[Notice],
    cleared: Sequence[Notice],
    now: datetime,
    *,
    key: str,
    hint: str,
) -> None:
    """Post alerts that begin and alerts that are over.

    Args:
        url: Where to; secrets as ``${secret:NAME}``.
        form: What is spoken there.
        raised: Those that begin, or go on.
        cleared: Those that are over.
        now: The time, UTC.
        key: Of the address in the configuration, for an error.
        hint: What to do about a wrong address.

    Raises:
        PenstockError: It cannot be reached, or refuses them; without any secret of the address.
    """
    import urllib.error
    import urllib.request

    address = revealed(url, url=True)
    if not address.startswith(("http://", "https://")):
        raise PenstockError(f"{key}: the address is not http or https", hint=hint)
    body = _slack(raised, cleared) if form == "slack" else _alertmanager(raised, cleared, now)
    request = urllib.request.Request(  # noqa: S310  (checked above)
        address, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=POST_SECONDS):  # noqa: S310
            pass
    except (urllib.error.URLError, OSError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise PenstockError(
            f"{key}: alerts cannot be posted ({hidden(str(error))})", hint="is the address right, and up?"
        ) from None


def _alertmanager(raised: Sequence[Notice], cleared: Sequence[Notice], now: datetime) -> list[dict[str, Any]]:
    def entry(notice: Notice, **times: str) -> dict[str, Any]:
        labels = {"alertname": notice.name, **notice.labels, "severity": notice.severity}
        return {"labels": labels, "annotations": {"summary": notice.message, **notice.annotations}, **times}

    return [
        *[entry(notice, startsAt=now.isoformat()) for notice in raised],
        *[entry(notice, endsAt=now.isoformat()) for notice in cleared],
    ]


def _slack(raised: Sequence[Notice], cleared: Sequence[Notice]) -> dict[str, str]:
    def named(notice: Notice) -> str:
        return notice.name.partition("_")[2] or notice.name

    lines = [f":rotating_light: *{n.about}* {named(n)} ({n.severity}): {n.message}" for n in raised]
    lines += [f":white_check_mark: *{n.about}* {named(n)}: over" for n in cleared]
    return {"text": "\n".join(lines)}
