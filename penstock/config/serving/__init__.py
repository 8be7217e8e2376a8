"""Typed views of conf/serve/NAME.yaml: one predictor."""

from __future__ import annotations

from penstock.config.serving.predictor import Batching, Limits, Reload, Serve, ServedModel, Signatures
from penstock.config.serving.requests import FileLog, KafkaLog, RequestLog

__all__ = [
    "Batching",
    "FileLog",
    "KafkaLog",
    "Limits",
    "Reload",
    "RequestLog",
    "Serve",
    "ServedModel",
    "Signatures",
]
