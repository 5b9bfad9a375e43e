"""The alarms do what they say, on names that exist; tests/on_ray/test_metric_names.py asks a live Ray for its own."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ray_ggsm.tables.metrics import HELP, PREFIX
from tests.helpers.manifests import built, containers
from tests.helpers.monitoring import FROM_KUBERNETES, PLACE, metric_names, queries, rules


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool(tmp_path: Path) -> None:
    found = yaml.safe_load((PLACE / "rules.yaml").read_text())
    (tmp_path / "rules.spec.yaml").write_text(yaml.safe_dump(found["spec"]))
    shutil.copy(PLACE / "rules-test.yaml", tmp_path)
    done = subprocess.run(
        ["promtool", "test", "rules", "rules-test.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alarm_is_tested_and_says_what_it_means() -> None:
    cases = yaml.safe_load((PLACE / "rules-test.yaml").read_text())["tests"]
    asked = {case["alertname"] for test in cases for case in test["alert_rule_test"] if case["exp_alerts"]}
    silent = {case["alertname"] for test in cases for case in test["alert_rule_test"] if not case["exp_alerts"]}
    alarms = [rule for rule in rules() if "alert" in rule]
    assert asked == silent == {rule["alert"] for rule in alarms}
    for rule in alarms:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]


def test_names_are_those_that_are_exported() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    ours = {PREFIX + name for name in HELP}
    names = metric_names()
    assert {name for name in names if name.startswith(PREFIX)} <= ours
    assert {name for name in names if ":" in name} <= recorded
    assert {name for name in names if name.startswith("kube_")} == FROM_KUBERNETES
    assert len(names) > 20


def test_the_dashboard() -> None:
    found = json.loads((PLACE / "dashboard.json").read_text())
    variables = {each["name"] for each in found["templating"]["list"]}
    assert variables == {"datasource", "table"}
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in found["panels"]}
    assert len(places) == len(found["panels"])
    assert all(query.count("$") == query.count("$table") for query in queries())


def test_prometheus_is_sent_to_ports_that_pods_have() -> None:
    ports = {port["name"] for each in built("base") for _, c in containers(each) for port in c.get("ports", [])}
    monitors = [each for each in built("monitoring") if each["kind"] == "PodMonitor"]
    assert len(monitors) == 2
    for monitor in monitors:
        assert {end["port"] for end in monitor["spec"]["podMetricsEndpoints"]} <= ports
