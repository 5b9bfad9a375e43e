"""Shipped configs: each is read by its job, and each whose inputs lie on this machine passes that job's dry run."""

import runpy
import sys
from pathlib import Path

import pytest
import yaml

from ray_ggsm.cli.access import AccessConfig
from ray_ggsm.cli.attach_definition import AttachDefinitionConfig
from ray_ggsm.cli.export import ExportConfig
from ray_ggsm.config import Config, digest, load
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.drift import DriftConfig
from ray_ggsm.on_ray.explain import ExplainConfig
from ray_ggsm.on_ray.ingest import IngestConfig
from ray_ggsm.on_ray.lookalike import LookalikeConfig
from ray_ggsm.on_ray.monitor import MonitorConfig
from ray_ggsm.on_ray.refresh import RefreshConfig
from ray_ggsm.on_ray.replay import ReplayConfig
from ray_ggsm.on_ray.simulate import SimulateConfig
from ray_ggsm.on_ray.study_config import StudyConfig
from ray_ggsm.on_ray.synthesis.config import SynthesizeConfig
from ray_ggsm.on_ray.tune_prompt import TunePromptConfig

ROOT = Path(__file__).parents[1]
FILES = sorted(ROOT.glob("configs/**/*.yaml"))
LIFTERS = ROOT.parent / "shared" / "benchmarks" / "lifters" / "lifters.parquet"
MADE = [
    ROOT / "configs" / file
    for file in (
        "refresh.yaml",
        "night.yaml",
        "attach_definition.yaml",
        "explain.yaml",
        "export.yaml",
        "simulated.yaml",
        "ingest.yaml",
        "journey/prompt.yaml",
    )
] + sorted(ROOT.glob("configs/formats/*.yaml"))
"""They read what another job has to make first (tests/on_ray/test_shipped_refresh.py and test_simulate.py do so), or a
benchmark's files (tests/data/test_benchmark_formats.py)."""
LOCAL = [file for file in FILES if "://" not in str(yaml.safe_load(file.read_text())) and file not in MADE]
"""Files that name no location on s3://, which a dry run would ask."""
SCHEMAS: dict[str, type[Config]] = {
    "access": AccessConfig,
    "attach_definition": AttachDefinitionConfig,
    "export": ExportConfig,
    "study": StudyConfig,
    "drift": DriftConfig,
    "explain": ExplainConfig,
    "monitor": MonitorConfig,
    "lookalike": LookalikeConfig,
    "refresh": RefreshConfig,
    "simulate": SimulateConfig,
    "ingest": IngestConfig,
    "replay": ReplayConfig,
    "synthesize": SynthesizeConfig,
    "tune_prompt": TunePromptConfig,
}
"""Config classes of the jobs that read no experiment."""


OTHER_NAMES = dict.fromkeys(
    ("ingredients", "vectors", "predicted", "trials", "rivals", "pilot", "guided", "asking"), "study"
) | {
    "questions": "synthesize",
    "smollm2": "synthesize",
    "prompt": "tune_prompt",
    "night": "refresh",
    "nights": "replay",
}
"""Name of a config -> its job."""


def job_of(file: Path) -> str:
    """The job of the file's name; an experiment can have any name, and quickstart reads it."""
    if file.stem in OTHER_NAMES:
        return OTHER_NAMES[file.stem]
    return file.stem if (ROOT / "jobs" / f"{file.stem}.py").exists() else "quickstart"


def name(file: Path) -> str:
    return str(file.relative_to(ROOT / "configs"))


@pytest.mark.parametrize("file", FILES, ids=name)
def test_shipped_configs_load(file: Path) -> None:
    load(SCHEMAS.get(job_of(file), Experiment), str(file))


@pytest.mark.parametrize("file", LOCAL, ids=name)
def test_shipped_configs_pass_a_dry_run(file: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    settings = []
    if file.parent.name == "lifters":
        if not LIFTERS.exists():
            pytest.skip(f"the Lifters data are not at {LIFTERS}")
        place = "data.source.tables.lifts.files"
        is_study = job_of(file) == "study"
        settings = ["--set", f'settings={{"{place}": "{LIFTERS}"}}' if is_study else f"{place}={LIFTERS}"]
    monkeypatch.setattr(sys, "argv", ["job", "--config", str(file), "--dry-run", *settings])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "jobs" / f"{job_of(file)}.py"), run_name="__main__")
    assert (stop.value.code, capsys.readouterr().err) == (0, "")


def test_the_quickstarts_and_the_study_are_on_this_machine() -> None:
    assert {"journey/quickstart.yaml", "journey/study.yaml", "own_events/quickstart.yaml"} <= {*map(name, LOCAL)}


@pytest.mark.parametrize(
    ("file", "digests"),
    [
        ("journey/language_model.yaml", ("7c73fbb656194abf", "a8588c69bfa2ffcd", "286a246568bfa942")),
        ("journey/train.yaml", ("0f9f2b6ce4b87074", "02568bf5884c7451", "bf787ac344e8e510")),
    ],
)
def test_configs_with_published_results_stay_what_they_were(file: str, digests: tuple[str, ...]) -> None:
    """docs/journey.md and docs/results have their numbers; a change of their base must not reach them."""
    config = load(Experiment, str(ROOT / "configs" / file))
    assert (digest(config.data), digest(config.model), digest(config.training)) == digests
