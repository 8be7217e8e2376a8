"""Typed views of conf/deploy/NAME.yaml: where a model goes, and how."""

from __future__ import annotations

from penstock.config.deploying.azure import Azure, AzureAlerts, AzureInstances, AzureRollout

__all__ = ["Azure", "AzureAlerts", "AzureInstances", "AzureRollout"]
