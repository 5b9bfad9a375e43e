"""The command line before any job runs: help, unknown names, plans; help loads neither Ray nor torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from ray_ggsm.cli.jobs import COMMANDS, JOBS, Job, Steps
from ray_ggsm.cli.main import main, run
from ray_ggsm.config import Config

ROOT = Path(__file__).parents[2]


class Fruit(Config):
    kind: str
    rate: float = 1.0


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """`ray-ggsm ARGUMENTS`; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["/venv/bin/ray-ggsm", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["tables", "--help"], ["nothing"]])
def test_help_and_mistakes_load_neither_ray_nor_torch(arguments: list[str]) -> None:
    script = f"""
import sys
sys.argv = ["ray-ggsm", *{arguments!r}]
from ray_ggsm.cli import main
try:
    main()
except SystemExit as stop:
    loaded = [name for name in ("ray", "torch", "transformers", "duckdb") if name in sys.modules]
    sys.exit(f"loaded {{loaded}}" if loaded else 10 + (stop.code or 0))
"""
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == (12 if arguments == ["nothing"] else 10), ended.stderr


def test_help_lists_all_jobs(monkeypatch, capsys) -> None:
    assert call(monkeypatch, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: ray-ggsm JOB [--help] ..."
    assert {line.split()[0] for line in lines if line.startswith("  ")} >= {*JOBS, *COMMANDS}
    scripts = {file.stem.replace("_", "-") for file in (ROOT / "jobs").glob("*.py")}
    assert scripts == {*JOBS, *COMMANDS}, "each job has a script"


@pytest.mark.parametrize("name", [*JOBS, *COMMANDS])
def test_help_of_a_job_names_itself_and_what_it_reads_and_writes(name: str, monkeypatch, capsys) -> None:
    assert call(monkeypatch, name, "--help") == 0
    output = capsys.readouterr().out
    assert output.startswith(f"usage: ray-ggsm {name} ")
    assert "\nReads   " in output
    assert "\nWrites  " in output
    assert ("--publish-anyway" in output) == (name in ("embed", "refresh"))


def test_an_unknown_job_is_told_the_known_ones(monkeypatch, capsys) -> None:
    assert call(monkeypatch, "trian", "--config", "x.yaml") == 2
    error = capsys.readouterr().err
    assert "invalid choice: 'trian'" in error
    assert "train" in error
    assert call(monkeypatch) == 2


def test_a_config_is_required(monkeypatch, capsys) -> None:
    assert call(monkeypatch, "train") == 2
    assert "--config" in capsys.readouterr().err


def test_a_missing_command_of_tables(monkeypatch, capsys) -> None:
    assert call(monkeypatch, "tables") == 2
    assert "COMMAND" in capsys.readouterr().err
    assert call(monkeypatch, "tables", "vacuum", "users") == 2
    assert "usage: ray-ggsm tables vacuum" in capsys.readouterr().err


@pytest.fixture
def config(tmp_path) -> str:
    (tmp_path / "fruit.yaml").write_text("kind: pear\n")
    return str(tmp_path / "fruit.yaml")


def test_a_job_gets_its_config_and_the_reason_to_publish(config: str, capsys) -> None:
    calls: list[tuple] = []
    steps = Steps(Fruit, lambda *given: calls.append(given), lambda fruit: f"would pick a {fruit.kind}")
    job, publishing = Job("Pick fruit.", lambda: steps), Job("Pick fruit.", lambda: steps, publishes=True)
    assert run(job, ["--config", config, "--set", "rate=2", "--set", "kind=plum"]) == 0
    assert run(publishing, ["--config", config]) == 0
    assert run(publishing, ["--config", config, "--publish-anyway", "it is ripe"]) == 0
    pear = Fruit(kind="pear")
    assert calls == [(Fruit(kind="plum", rate=2.0),), (pear, None), (pear, "it is ripe")]
    assert run(publishing, ["--config", config, "--dry-run"]) == 0
    assert capsys.readouterr().out == "would pick a pear\n"
    assert len(calls) == 3
    assert run(job, [], default_config=config) == 0
    assert run(job, ["--config", config, "--set", "rte=2"]) == 2
    assert "rte: unknown key; did you mean 'rate'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", JOBS)
def test_every_job_loads(name: str) -> None:
    steps = JOBS[name].load()
    assert issubclass(steps.config, Config)
    assert callable(steps.run)
    assert callable(steps.preview)
