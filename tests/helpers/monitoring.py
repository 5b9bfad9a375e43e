"""What infra/monitoring asks Prometheus for."""

import json
import re
from typing import Any

import yaml

from tests.helpers.manifests import INFRA

PLACE = INFRA / "monitoring"
OF_GPUS = {"ray_node_gpus_available", "ray_node_gpus_utilization"}
"""Metrics that Ray exports of nodes with GPUs only."""
FROM_KUBERNETES = {
    "kube_job_failed", "kube_job_status_active", "kube_cronjob_created", "kube_cronjob_status_last_successful_time",
    "kube_pod_created", "kube_pod_init_container_status_terminated_reason",
}  # fmt: skip
"""Metrics of kube-state-metrics, as its documentation names them; no test has seen them."""


def groups() -> list[dict[str, Any]]:
    """The groups of rules.yaml."""
    found: list[dict[str, Any]] = yaml.safe_load((PLACE / "rules.yaml").read_text())["spec"]["groups"]
    return found


def rules() -> list[dict[str, Any]]:
    """Alarms and recorded series."""
    return [rule for group in groups() for rule in group["rules"]]


def queries() -> list[str]:
    """All expressions of rules and dashboard."""
    panels = json.loads((PLACE / "dashboard.json").read_text())["panels"]
    return [rule["expr"] for rule in rules()] + [target["expr"] for panel in panels for target in panel["targets"]]


def metric_names() -> set[str]:
    """Names of the series that these read."""
    bare = (re.sub(r'"[^"]*"', "", query) for query in queries())
    return {name for query in bare for name in re.findall(r"\b(?:ray|kube)_[a-z0-9_:]+", query)}
