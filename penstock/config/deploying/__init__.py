"""Views of conf/deploy/."""

from __future__ import annotations

from penstock.config.deploying.azure import Azure, AzureAlerts, AzureInstances, AzureRollout
from penstock.config.deploying.kubernetes import Kubernetes, KubernetesReplicas, Resources

__all__ = [
    "Azure",
    "AzureAlerts",
    "AzureInstances",
    "AzureRollout",
    "Kubernetes",
    "KubernetesReplicas",
    "Resources",
]
