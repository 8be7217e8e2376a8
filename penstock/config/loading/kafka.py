"""Kafka topics, read in batches that end."""

from __future__ import annotations

from typing import Literal

from penstock.config.base import View

__all__ = ["KafkaSource"]


class KafkaSource(View):
    """A topic from where the last load ended up to its end as it is when the load begins."""

    kind: Literal["kafka"]
    brokers: str
    topic: str
