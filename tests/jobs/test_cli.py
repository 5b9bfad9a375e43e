"""What a user sees of the jobs before any Ray starts: help, plans, exit codes, one sentence for each mistake."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from ray_ggsm.cli.jobs import Job, Steps
from ray_ggsm.cli.main import run
from ray_ggsm.config import InputError, build, load
from ray_ggsm.experiment import Experiment
from ray_ggsm.masks import MaskConfig
from ray_ggsm.on_ray.study_config import StudyConfig
from ray_ggsm.on_ray.train import rounds_published_weights

ROOT = Path(__file__).parents[2]
JOBS = sorted(file.stem for file in (ROOT / "jobs").glob("*.py"))
SHIPPED = ROOT / "configs/journey/quickstart.yaml"
STUDY = ROOT / "configs/journey/study.yaml"
OTHERS = {
    "access",
    "explain",
    "rayjob",
    "tables",
    "lookalike",
    "refresh",
    "study",
    "drift",
    "monitor",
    "attach_definition",
    "export",
    "simulate",
    "ingest",
    "store",
    "replay",
    "synthesize",
    "tune_prompt",
}
"""Jobs that are not about the stages of one experiment."""
CONFIG = ["--config", "config.yaml"]


@pytest.mark.parametrize("name", sorted({*JOBS} - OTHERS))
def test_dry_run_plans_and_touches_nothing(name: str, job: Callable, place: Path, capsys) -> None:
    before = sorted(place.rglob("*"))
    assert job(name, *CONFIG, "--set", "output=planned", "--set", "seed=7", "--dry-run") == 0
    resolved, _, plan = capsys.readouterr().out.rpartition("\nstages:\n")
    values = yaml.safe_load(resolved)
    assert (values["seed"], values["output"]) == (7, "planned")
    assert values["training"]["temperature"] == 0.05  # defaults are shown
    stages = [line.split() for line in plan.splitlines()]
    assert [words[0] for words in stages] == ["prepare", "train", "embed", "evaluate"]
    assert all(words[1:3] == ["to", "do"] and str(place / "planned") in words[3] for words in stages)
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "setting", "sentences"),
    [
        ("prepare", "training.stepz=3", ["--set training.stepz=3: training.stepz: unknown key; did you mean 'steps'?"]),
        ("train", "seed=-1", ["--set seed=-1: seed: input should be greater than or equal to 0, found -1"]),
        ("prepare", "data.shards=two", ["--set data.shards=two: data.shards: ", "found 'two'"]),
        ("prepare", "data.source.tables.clicks.files=no.csv", ["data.source.tables.clicks.files", "no.csv"]),
        ("prepare", "data.source.tables.clicks.user=who", ["data.source.tables.clicks.user", "clicks.csv", "'who'"]),
        ("prepare", "data.labels.buys.sql=count(*) fltr", ["data.labels.buys.sql", "fltr"]),
        ("prepare", "data.labels.buys.sql=count(prise) > 0", ["data.labels.buys.sql", "price"]),
        ("train", "output=new", ["new/prepare-", "run jobs/prepare.py"]),
        ("embed", "output=new", ["new/prepare-", "run jobs/prepare.py"]),
        ("evaluate", "output=new", ["new/prepare-", "run jobs/prepare.py"]),
    ],
)
def test_mistakes(name: str, setting: str, sentences: list[str], job: Callable, place: Path, capsys) -> None:
    assert job(name, *CONFIG, "--set", setting) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert len(output.err.splitlines()) == 1
    for sentence in sentences:
        assert sentence in output.err
    assert not (place / "new").exists()


def test_a_missing_config_file(job: Callable, capsys) -> None:
    assert job("train", "--config", "no.yaml") == 2
    assert capsys.readouterr().err == "error: no.yaml: no such config file\n"


def test_anything_else_is_one_with_a_traceback(place: Path, capsys) -> None:
    def broken(experiment: Experiment) -> None:
        raise RuntimeError("a disk is full")

    job = Job("", lambda: Steps(Experiment, broken, str))
    assert run(job, ["--config", str(place / "config.yaml")]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "RuntimeError: a disk is full" in error


def test_the_shipped_study_has_all_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = load(StudyConfig, str(STUDY))
    runs = [study.variant(name, 1) for name in study.variants]
    assert {run.mask.recipe for run in runs} == set(TypeAdapter(MaskConfig).json_schema()["discriminator"]["mapping"])
    assert all(run.model.backbone.layers == 2 and run.training.steps == 120 and run.seed == 1 for run in runs)


@pytest.mark.parametrize(
    ("settings", "variant", "sentence"),
    [
        ({}, {"mask.recipe": "nope"}, "variants.causal: mask.recipe: expected one of 'oracle', "),
        ({}, {"mask": {"recipe": "causal", "x": 1}}, "variants.causal: mask.x: unknown key"),
        ({"training.stepz": 3}, {}, "settings: training.stepz: unknown key; did you mean 'steps'?"),
        ({"training.steps": "x"}, {"training.steps": "y"}, "variants.causal: training.steps: input should be a valid"),
        ({}, {"training.epochs": 2}, f"{SHIPPED} with variants.causal: training: give either steps or epochs"),
    ],
)
def test_a_wrong_setting_of_a_study_is_told_with_its_variant(settings: dict, variant: dict, sentence: str) -> None:
    values = {"name": "a", "experiment": str(SHIPPED), "output": "o", "settings": settings, "reference": "causal"}
    study = build(StudyConfig, {**values, "variants": {"causal": variant}}, "study.yaml")
    with pytest.raises(InputError) as error:
        study.variant("causal", 0)
    assert str(error.value).startswith(sentence)


def test_seeds_of_a_study_are_not_negative() -> None:
    values = {"name": "a", "experiment": "e.yaml", "output": "o", "variants": {"a": {}}, "reference": "a"}
    with pytest.raises(InputError, match=r"^study.yaml: seeds.1: input should be .*, found -1$"):
        build(StudyConfig, {**values, "seeds": [0, -1]}, "study.yaml")


def test_every_recipe_has_a_config_that_differs_in_mask_and_name_only() -> None:
    files = [*ROOT.glob("configs/journey/masks/*.yaml"), ROOT / "configs/journey/language_model.yaml"]
    loaded = [load(Experiment, str(file)) for file in files]
    literal = files.index(ROOT / "configs/journey/masks/ggsm_literal.yaml")
    assert not rounds_published_weights(loaded[literal])  # which float32 is for
    coarse = ["model.dtype=bfloat16", "model.event_encoder.dtype=bfloat16"]
    loaded[literal] = load(Experiment, str(files[literal]), coarse)
    assert rounds_published_weights(loaded[literal])
    settings = [experiment.model_dump(exclude={"mask", "name", "output"}) for experiment in loaded]
    assert all(values == settings[0] for values in settings)
    assert {e.mask.recipe for e in loaded} == set(TypeAdapter(MaskConfig).json_schema()["discriminator"]["mapping"])
