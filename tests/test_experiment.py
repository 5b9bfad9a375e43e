"""Stages are named by what they depend on: a changed setting moves the stages it reaches, and no others."""

from pathlib import Path

import pytest

from ray_ggsm.config import load
from ray_ggsm.experiment import Experiment

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "own_events" / "quickstart.yaml"
ALL = ["prepare", "train", "embed", "evaluate"]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)


def locations(*settings: str) -> dict[str, str]:
    return {name: stage.location for name, stage in stages(load(Experiment, str(CONFIG), settings)).items()}


@pytest.mark.parametrize(
    ("setting", "moved"),
    [
        ("name=another", []),
        ("notes=[a]", []),
        ("ray.train_workers=2", []),
        ("data.max_bad_share=0.5", []),
        ("evaluation.folds=3", ["evaluate"]),
        ("embedding.rows_per_batch=7", ["embed", "evaluate"]),
        ("training.steps=4", ["train", "embed", "evaluate"]),
        ("mask.warmup_share=0.5", ["train", "embed", "evaluate"]),
        ("model.pooling=user", ["train", "embed", "evaluate"]),
        ("seed=3", ["train", "embed", "evaluate"]),
        ("data.modalities.app.keep=7", ALL),
        ("data.snapshots.future_days=6", ALL),
    ],
)
def test_a_setting_moves_what_depends_on_it(setting: str, moved: list[str]) -> None:
    before, after = locations(), locations(setting)
    assert [name for name in ALL if before[name] != after[name]] == moved


def test_changed_input_files_move_everything(tmp_path) -> None:
    copy = tmp_path / "clicks.csv"
    copy.write_text((ROOT / "configs" / "own_events" / "clicks.csv").read_text())
    setting = f"data.source.tables.clicks.files={copy}"
    before = locations(setting)
    copy.write_text(copy.read_text() + "eve,2024-03-02T09:30:00,app,home,pen,\n")
    assert not set(before.values()) & set(locations(setting).values())


def test_the_untrained_encoder_has_a_table_of_its_own() -> None:
    experiment = load(Experiment, str(CONFIG))
    first, second = stages(experiment), stages(untrained(experiment))
    assert [name for name in ALL if first[name] != second[name]] == ["embed"]
