"""The simulate job: finished days stay, cut ones are written again, other populations are refused; shipped configs."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ray_ggsm import storage
from ray_ggsm.cli.jobs import JOBS
from ray_ggsm.cli.main import run

ROOT = Path(__file__).parents[2]
SIMULATE = str(ROOT / "configs" / "simulate.yaml")


def simulate(output: Path, *changes: str) -> int:
    settings = [f"output={output}", "population.users=50", "population.users_per_file=30", *changes]
    return run(JOBS["simulate"], ["--config", SIMULATE, *(word for s in settings for word in ("--set", s))])


def contents(output: Path) -> dict[str, bytes]:
    return {str(file.relative_to(output)): file.read_bytes() for file in output.glob("**/*.*")}


def test_a_run_that_was_cut_goes_on_and_days_can_be_added(tmp_path: Path, capsys) -> None:
    assert simulate(tmp_path, "population.days=2") == 0
    assert "best AUC given the traits, 30 days from 2025-01-03 on" in capsys.readouterr().out
    before = contents(tmp_path)
    day = json.loads(before["ready/2025-01-02.json"])
    assert len(day["rows"]) == 2 * 5, "two files of each table"
    assert all(pq.read_metadata(tmp_path / file).num_rows == n for file, n in day["rows"].items())
    (tmp_path / "ready" / "2025-01-02.json").unlink()
    (tmp_path / "bill" / "day=2025-01-02" / "part-00001.parquet").write_bytes(b"cut")
    assert simulate(tmp_path, "population.days=3") == 0
    assert "simulate: 2025-01-01" not in capsys.readouterr().out, "a finished day is not written again"
    after = contents(tmp_path)
    assert {file: after[file] for file in before} == before
    assert storage.exists(str(tmp_path / "ready" / "2025-01-03.json"))


def test_two_populations_are_not_mixed(tmp_path: Path, capsys) -> None:
    assert simulate(tmp_path, "population.days=1") == 0
    assert simulate(tmp_path, "population.days=1", "population.seed=1") == 2
    assert "holds another population" in capsys.readouterr().err


def test_the_shipped_experiment_reads_what_the_shipped_simulation_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert simulate(tmp_path / "data" / "simulated", "population.days=2") == 0
    assert run(JOBS["prepare"], ["--config", str(ROOT / "configs" / "simulated.yaml"), "--dry-run"]) == 0
    assert "prepare   to do" in capsys.readouterr().out
    assert run(JOBS["ingest"], ["--config", str(ROOT / "configs" / "ingest.yaml"), "--dry-run"]) == 0
    assert "all days: bill 4 files" in capsys.readouterr().out
