"""Starting Ray on a machine that is slow to start it."""

import contextlib

import psutil
import pytest
import ray

from ray_ggsm.on_ray.cluster import connection


@pytest.mark.parametrize(("failures", "starts"), [(0, 1), (2, 3)])
def test_ray_is_started_again_when_its_processes_are_slow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failures: int, starts: int
) -> None:
    tries: list[dict[str, object]] = []

    def init(**options: object) -> None:
        tries.append(options)
        if len(tries) <= failures:
            raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    connection.start_here(3, 10**8)
    assert [options["num_cpus"] for options in tries] == [3] * starts
    assert capsys.readouterr().out.count("Ray did not start in time") == failures


@pytest.mark.parametrize("sentence", ["The current node timed out during startup", "no space left"])
def test_a_start_that_fails_for_good_raises(monkeypatch: pytest.MonkeyPatch, sentence: str) -> None:
    tries = []

    def init(**options: object) -> None:
        tries.append(options)
        raise Exception(sentence)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(Exception, match=sentence):
        connection.start_here(3, 10**8)
    assert len(tries) == (connection.STARTS if "timed out" in sentence else 1)


def test_nobody_from_outside_reaches_a_jobs_own_ray() -> None:
    """Every process that this one has started listens on this machine alone."""
    names, listening = [], []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            names.append(process.name())
            found = process.net_connections("tcp")
            listening += [each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN]
    assert "gcs_server" in names
    assert len(listening) > 3
    assert {ip.removeprefix("::ffff:") for ip in listening} <= {"127.0.0.1", "::1"}
