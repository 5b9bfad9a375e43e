"""`ray-ggsm rayjob`: what becomes a run, how long it is waited for, and which exit code is its."""

import datetime as dt
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_ggsm.cli import rayjob
from ray_ggsm.cli.main import main
from ray_ggsm.config import InputError
from tests.helpers.kubernetes_api import DONE, Cluster, Status, serving
from tests.helpers.tables import put, rows

NIGHT = "refresh-29402040"
"""A Job of a CronJob: minutes from 1970 to its schedule, on `DAY`, also in Berlin."""
DAY = dt.datetime.fromtimestamp(29402040 * 60, dt.UTC).date()
TEMPLATE = {
    "metadata": {
        "name": "refresh",
        "labels": {"app": "ray-ggsm"},
        "annotations": {"ray-ggsm/queue": "nights", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
    },
    "spec": {"suspend": True, "backoffLimit": 0, "entrypoint": "ray-ggsm refresh --as-of {today} --set a={yesterday}"},
}
RUNNING: Status = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
FAILED: Status = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "jobId": "one", "reason": "AppFailed"}
TOO_LATE: Status = {"jobDeploymentStatus": "Failed", "jobStatus": "RUNNING", "reason": "DeadlineExceeded"}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    found = Cluster(TEMPLATE)
    with serving(found, tmp_path, monkeypatch):
        yield found


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`ray-ggsm rayjob run refresh ARGUMENTS`; returns the exit code."""

    def call(*arguments: str, night: str = NIGHT) -> int:
        command = ["ray-ggsm", "rayjob", "run", "refresh", "--night", night, "--timezone", "Europe/Berlin", *arguments]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0)

    return call


def test_a_run_is_the_template_of_tonight(cluster: Cluster, run: Callable[..., int]) -> None:
    cluster.statuses = [[{}, RUNNING, RUNNING, DONE]]
    assert run("--owner", "some-uid") == 0
    made = cluster.jobs[f"{NIGHT}-0"]
    assert made["metadata"]["labels"] == {
        "app": "ray-ggsm",
        "ray-ggsm/night": NIGHT,
        "ray-ggsm/template": "refresh",
        "kueue.x-k8s.io/queue-name": "nights",
    }
    assert made["metadata"]["ownerReferences"][0]["uid"] == "some-uid"
    yesterday = DAY - dt.timedelta(days=1)
    entrypoint = f"ray-ggsm refresh --as-of {DAY} --set a={yesterday}"
    assert made["spec"] == {"suspend": False, "backoffLimit": 0, "entrypoint": entrypoint}
    assert cluster.authorization == {"Bearer pod-token"}, "the token of Ray goes to Ray, this one to Kubernetes"


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 143])
def test_the_drivers_exit_code(cluster: Cluster, run: Callable[..., int], code: int) -> None:
    cluster.statuses, cluster.driver_exit_codes = [[RUNNING, FAILED]], [code]
    assert run() == code
    assert cluster.authorization == {"Bearer pod-token", "Bearer ray-token"}


def test_a_driver_that_a_signal_ended(cluster: Cluster, run: Callable[..., int]) -> None:
    cluster.statuses, cluster.driver_exit_codes = [[RUNNING, FAILED]], [-9]
    assert run() == 137


@pytest.mark.parametrize(("status", "recorded"), [(FAILED, []), (FAILED, [None]), (FAILED, [0]), (TOO_LATE, [])])
def test_of_which_nothing_is_recorded_is_tried_again(
    cluster: Cluster, run: Callable[..., int], status: Status, recorded: list[int | None]
) -> None:
    cluster.statuses, cluster.driver_exit_codes = [[RUNNING, {**status, "jobId": "one"}]], recorded
    assert run() == 4


def test_of_which_nothing_is_recorded_but_the_table_has_its_version(
    cluster: Cluster, run: Callable[..., int], tmp_path: Path
) -> None:
    table = str(tmp_path / "users")
    cluster.statuses = [[FAILED]] * 3
    assert run("--table", table) == 4, "there is no table yet"
    put(table, rows(3), "earlier")
    commit = tmp_path / "users" / "_delta_log" / f"{0:020}.json"
    now = commit.read_text()
    early = "".join(
        json.dumps({"commitInfo": {**json.loads(line)["commitInfo"], "timestamp": 1_600_000_000_000}}) + "\n"
        if "commitInfo" in line
        else line
        for line in now.splitlines(keepends=True)
    )
    commit.write_text(early)
    assert run("--table", table) == 4, "the version is of before"
    put(table, rows(4), "tonight")
    assert run("--table", table) == 0
    assert cluster.runs() == [f"{NIGHT}-0", f"{NIGHT}-1"], "that was found before a third attempt"


def test_a_pod_in_the_place_of_another_waits_for_the_same_run(cluster: Cluster, run: Callable[..., int]) -> None:
    labels = {"ray-ggsm/night": NIGHT, "ray-ggsm/template": "refresh"}
    cluster.add({"metadata": {"name": f"{NIGHT}-9", "labels": labels}, "spec": {}}, [RUNNING, DONE])
    cluster.add({"metadata": {"name": f"{NIGHT}-2", "labels": labels}, "spec": {}}, [FAILED])
    assert run() == 0
    assert run() == 0, "done stays done"
    assert cluster.runs() == [f"{NIGHT}-9", f"{NIGHT}-2"]


def test_a_retry_makes_another_run_unless_a_person_has_to_act(cluster: Cluster, run: Callable[..., int]) -> None:
    cluster.statuses, cluster.driver_exit_codes = [[FAILED], [FAILED], [DONE]], [1, 1, 3, 3]
    assert run() == 1
    assert run() == 3
    assert run() == 3
    assert cluster.runs() == [f"{NIGHT}-0", f"{NIGHT}-1"]


def test_not_now_is_tried_again_while_there_is_time(cluster: Cluster, run: Callable[..., int]) -> None:
    cluster.statuses, cluster.driver_exit_codes = [[FAILED], [FAILED], [DONE]], [4, 4]
    assert run("--again-for-minutes", "60") == 0
    assert len(cluster.runs()) == 3


def test_an_api_in_trouble(cluster: Cluster, run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    cluster.trouble = [503]
    assert run() == 4
    cluster.trouble = [403]
    assert run() == 2
    assert "Kubernetes refuses GET" in capsys.readouterr().err
    cluster.statuses, looks = [[RUNNING, RUNNING, DONE]], cluster._looked_at

    def troubled(name: str) -> dict[str, Any]:
        if name != "refresh" and "once" not in cluster.jobs[name]:
            cluster.jobs[name]["once"] = True
            cluster.trouble = [500, 429]
        return looks(name)

    cluster._looked_at = troubled  # type: ignore[method-assign]
    assert run() == 0, "waiting outlives an outage"
    assert "Kubernetes answers 500" in capsys.readouterr().out


def test_an_answer_that_was_lost(cluster: Cluster, run: Callable[..., int]) -> None:
    """The run was created, but the list that was asked before did not have it: 409, and it is waited for."""
    cluster.add({"metadata": {"name": f"{NIGHT}-0"}, "spec": {}}, [RUNNING, DONE])
    assert run() == 0


@pytest.mark.parametrize(
    ("change", "night", "sentence"),
    [
        ({"spec": {"entrypoint": "x", "suspend": False}}, NIGHT, "'refresh' is no template"),
        ({"spec": {"suspend": True}}, NIGHT, "'refresh' is no template"),
        ({}, "refresh-by-hand", "--night: expected the name of a CronJob's Job"),
        ({}, "refresh-of-a-team-with-a-very-long-name-29402040", "KubeRay takes 47"),
        (None, NIGHT, "there is no RayJob 'refresh'"),
    ],
)
def test_mistakes(
    cluster: Cluster,
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    change: Any,
    night: str,
    sentence: str,
) -> None:
    cluster.jobs = {} if change is None else {"refresh": {**TEMPLATE, **change}}
    assert run(night=night) == 2
    assert sentence in capsys.readouterr().err
    assert not cluster.runs()


def test_outside_a_pod(monkeypatch: pytest.MonkeyPatch, run: Callable[..., int], capsys: Any) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert run() == 2
    assert "expected a pod of Kubernetes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("moment", "timezone", "day"),
    [
        ("2025-06-30T22:30:00", "Europe/Berlin", "2025-07-01"),
        ("2025-06-30T22:30:00", "UTC", "2025-06-30"),
        ("2025-03-30T01:00:00", "Europe/Berlin", "2025-03-30"),
    ],
)
def test_the_night_is_that_of_the_schedule(moment: str, timezone: str, day: str) -> None:
    minutes = int(dt.datetime.fromisoformat(moment + "+00:00").timestamp()) // 60
    assert rayjob.night_of(f"refresh-{minutes}", timezone).isoformat() == day


@pytest.mark.parametrize("zone", ["Europe/Berln", "../etc/passwd", ""])
def test_an_unknown_time_zone_is_a_sentence(zone: str) -> None:
    with pytest.raises(InputError, match="--timezone: expected a name such as Europe/Berlin"):
        rayjob.night_of("refresh-29402040", zone)
