"""The snippets of infra/orchestrators.md: their syntax, and that what they call exists."""

import argparse
import ast
import datetime as dt
import re
import shlex
import sys
import types
from typing import Any

import pytest
import yaml

from ray_ggsm.cli.rayjob import _parser, night_of
from tests.helpers.manifests import INFRA, check, containers

TEXT = (INFRA / "orchestrators.md").read_text()
MINUTES = 28_514_940
SCHEDULED = dt.datetime(2024, 3, 20, 1, tzinfo=dt.UTC)


def snippet(title: str, language: str) -> str:
    found = re.search(rf"^## {title}\n.*?^```{language}\n(.*?)^```", TEXT, re.S | re.M)
    assert found, title
    return found[1]


def parsed(arguments: list[str]) -> argparse.Namespace:
    """As `ray-ggsm rayjob` reads it; ends the test where it does not."""
    assert arguments[:2] == ["ray-ggsm", "rayjob"]
    return _parser("ray-ggsm rayjob").parse_args(arguments[2:])


def test_argo() -> None:
    workflow = yaml.safe_load(snippet("Argo Workflows", "yaml"))
    spec = workflow["spec"]["workflowSpec"]
    steps, run = spec["templates"]
    jobs = [step["arguments"]["parameters"][0]["value"] for (step,) in steps["steps"]]
    assert jobs == ["ingest", "refresh"]
    ((_, container),) = containers({"containers": [{"name": "main", **run["container"]}]})
    check(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "night", **spec["podMetadata"]},
            "spec": {"containers": [container], "volumes": spec["volumes"], "securityContext": spec["securityContext"]},
        }
    )
    (command,) = container["args"]
    command = command.replace("{{inputs.parameters.job}}", "refresh")
    command = re.sub(r"\$\(\(.*\)\)", str(MINUTES), command)
    assert night_of(parsed(shlex.split(command)).night, "Europe/Berlin") == SCHEDULED.date()
    assert workflow["spec"]["concurrencyPolicy"] == "Forbid"
    assert "['2', '3', '5']" in run["retryStrategy"]["expression"]


def test_airflow() -> None:
    tree = ast.parse(snippet("Airflow", "python"))
    compile(tree, "airflow", "exec")
    (night,) = (
        node.value.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "NIGHT"
    )  # type: ignore[attr-defined]
    assert "data_interval_end" in night
    night = re.sub(r"\{\{.*\}\}", str(MINUTES), night)
    (call,) = (n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Night")
    words = {"job": ast.Constant("refresh"), "NIGHT": ast.Constant(night)}
    command: list[str] = []
    for keyword in call.keywords:
        if keyword.arg in ("cmds", "arguments"):
            assert isinstance(keyword.value, ast.List)
            command += [ast.literal_eval(words.get(getattr(each, "id", ""), each)) for each in keyword.value.elts]
    assert night_of(parsed(command).night, "Europe/Berlin") == SCHEDULED.date()


def test_dagster() -> None:
    """With the real library where it is installed, and with a stand-in otherwise."""
    try:
        import dagster
    except ImportError:
        dagster = None
    code = snippet("Dagster", "python")
    made: dict[str, Any] = {"__name__": "night"}
    with pytest.MonkeyPatch.context() as modules:
        if dagster is None:
            modules.setitem(sys.modules, "dagster", _StandIn("dagster"))
        exec(compile(code, "dagster", "exec", dont_inherit=True), made)
    command = made["command"]("refresh", SCHEDULED)
    assert night_of(parsed(command).night, "Europe/Berlin") == SCHEDULED.date()
    if dagster is not None:
        context = dagster.build_schedule_context(scheduled_execution_time=SCHEDULED)
        request = made["nightly"](context)
        assert request.tags == {"scheduled": SCHEDULED.isoformat()}
        assert made["defs"].resolve_all_asset_specs()


class _StandIn(types.ModuleType):
    """Anything that it is asked for decorates, or can be made."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"EXPONENTIAL": 1, "__init__": lambda *_, **__: None, "__call__": lambda _, made: made})
