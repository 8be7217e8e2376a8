"""Typed views of conf/stream/NAME.yaml: one deployment of the real-time path."""

from __future__ import annotations

from penstock.config.streaming.gateway import Gateway, Limits, Mqtt
from penstock.config.streaming.indexer import Activity, Batching, Indexer, Windows
from penstock.config.streaming.log import EmbeddedLog, KafkaLog, StreamLog
from penstock.config.streaming.page import Page
from penstock.config.streaming.store import ElasticsearchStore, EmbeddedStore, LakeStore, StreamStore
from penstock.config.streaming.stream import Stream

__all__ = [
    "Activity",
    "Batching",
    "ElasticsearchStore",
    "EmbeddedLog",
    "EmbeddedStore",
    "Gateway",
    "Indexer",
    "KafkaLog",
    "LakeStore",
    "Limits",
    "Mqtt",
    "Page",
    "Stream",
    "StreamLog",
    "StreamStore",
    "Windows",
]
