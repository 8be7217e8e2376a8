"""A deployment: gateway, log, indexer and store."""

from __future__ import annotations

from penstock.config.base import View
from penstock.config.streaming.gateway import Gateway
from penstock.config.streaming.indexer import Indexer
from penstock.config.streaming.log import StreamLog
from penstock.config.streaming.page import Page
from penstock.config.streaming.store import LakeStore, StreamStore

__all__ = ["Stream"]


class Stream(View):
    """Everything that is chosen for one real-time path."""

    log: StreamLog
    store: StreamStore
    lake: LakeStore | None = None  # besides, every reading as Parquet by hour
    gateway: Gateway = Gateway()
    indexer: Indexer = Indexer()
    page: Page = Page()
