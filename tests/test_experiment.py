"""Stages are named by what they depend on: a changed setting moves the stages it reaches, and no others."""

import shlex
from pathlib import Path

import pytest

from ray_ggsm.config import InputError, load
from ray_ggsm.experiment import Experiment, arguments, loaded
from ray_ggsm.stages import Pipeline, pipelines

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "own_events" / "quickstart.yaml"
ALL = ["prepare", "train", "embed", "evaluate"]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)


def locations(*settings: str) -> dict[str, str]:
    return {stage.name: stage.location for stage in Pipeline.of(load(Experiment, str(CONFIG), settings)).stages}


@pytest.mark.parametrize(
    ("setting", "moved"),
    [
        ("name=another", []),
        ("notes=[a]", []),
        ("ray.train_workers=2", []),
        ("data.max_bad_share=0.5", []),
        ("evaluation.folds=3", ["evaluate"]),
        ("embedding.rows_per_batch=7", []),
        ("training.graph_tokens=100", []),
        ("embedding.mask=inference", ["embed", "evaluate"]),
        ("publishing.gates.max_zero=3", []),
        ("training.temperature=0.05", ["train", "embed", "evaluate"]),
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


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("training.held_out.split=pretrain", r"training\.held_out\.split: 'pretrain' carries no future .*\(none yet\)"),
        ("training.held_out.split=probe", r"'probe' carries no future .* \(none yet\), other than 'pretrain'"),
        ("embedding.splits=[probe, prob]", r"embedding\.splits: there is no split 'prob' .* pretrain, probe, test"),
        ("attention.split=tset", r"attention\.split: there is no split 'tset' .* pretrain, probe, test"),
    ],
)
def test_a_section_names_only_splits_that_the_data_have(setting: str, sentence: str) -> None:
    with pytest.raises(InputError, match=rf"quickstart\.yaml: (\S+ )?{sentence}"):
        load(Experiment, str(CONFIG), [setting])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["embedding.instructions={default: '', spend: how much}"], "embedding.instructions: .* kind features reads"),
        (["embedding.instructions={spend: how much}"], "embedding.instructions: .* kind features reads no"),
        (["embedding.mask=inference"], "embedding.mask: .* kind features has no attention mask"),
    ],
)
def test_what_only_the_language_model_reads_is_refused(settings: list[str], sentence: str) -> None:
    features = str(ROOT / "configs" / "journey" / "features.yaml")
    assert load(Experiment, features, ["embedding.instructions={own: ''}"]).embedding.mask == "trained"
    with pytest.raises(InputError, match=sentence):
        load(Experiment, features, settings)


def test_held_out_pairs_come_from_a_split_with_a_future() -> None:
    settings = ["data.splits.probe.future=true", "training.held_out.split=probe"]
    held_out = load(Experiment, str(CONFIG), settings).training.held_out
    assert held_out is not None
    assert held_out.split == "probe"
    with pytest.raises(InputError, match=r"'test' carries no future .* \(probe\), other than 'pretrain'"):
        load(Experiment, str(CONFIG), [*settings, "training.held_out.split=test"])


def test_changed_input_files_move_everything(tmp_path) -> None:
    copy = tmp_path / "clicks.csv"
    copy.write_text((ROOT / "configs" / "own_events" / "clicks.csv").read_text())
    setting = f"data.source.tables.clicks.files={copy}"
    before = locations(setting)
    copy.write_text(copy.read_text() + "eve,2024-03-02T09:30:00,app,home,pen,\n")
    assert not set(before.values()) & set(locations(setting).values())


def test_the_untrained_encoder_has_a_table_of_its_own() -> None:
    pipeline = Pipeline.of(load(Experiment, str(CONFIG)))
    places = zip(pipeline.stages, pipeline.untrained.stages, strict=True)
    assert [first.name for first, second in places if first != second] == ["embed"]
    assert pipeline.untrained == Pipeline.of(pipeline.untrained.experiment)


def test_who_lacks_the_untrained_encoders_table_is_told_how_to_make_it(tmp_path) -> None:
    pipeline = Pipeline.of(load(Experiment, str(CONFIG), [f"output={tmp_path}"]))
    with pytest.raises(InputError, match=r"run jobs/embed\.py \(or ray-ggsm embed\) with the same config first"):
        pipeline.embed.require()
    with pytest.raises(InputError, match=r"same config and --set embedding\.checkpoint=untrained first"):
        pipeline.untrained.embed.require()


def test_jobs_that_name_an_experiment_say_what_its_own_jobs_are_to_be_run_with(tmp_path) -> None:
    """The words can be given to a shell, and lead to the same stages."""
    settings = {"output": str(tmp_path), "embedding.instructions": {"food": "buys 'baby' food"}}
    pipeline = Pipeline.of(loaded(str(CONFIG), settings), arguments(str(CONFIG), settings))
    with pytest.raises(InputError, match=r"run jobs/train\.py \(or ray-ggsm train\) with --config \S+ --set .* first"):
        pipeline.train.require()
    _, file, *changes = shlex.split(pipeline.train.run_with)
    assert changes[::2] == ["--set", "--set"]
    assert Pipeline.of(load(Experiment, file, changes[1::2])) == pipeline


def test_input_that_lands_in_between_splits_no_run(tmp_path) -> None:
    """All stages of a pipeline, and all runs of a study, know one state of the input."""
    (tmp_path / "clicks.csv").write_text((ROOT / "configs" / "own_events" / "clicks.csv").read_text())
    experiments = [
        load(Experiment, str(CONFIG), [f"data.source.tables.clicks.files={tmp_path}/*.csv", f"seed={seed}"])
        for seed in (0, 1)
    ]
    first, second = pipelines(experiments)
    (tmp_path / "more.csv").write_text("uid,ts,kind,page,item,price\neve,2024-03-02T09:30:00,app,home,pen,\n")
    assert first.prepare == first.untrained.prepare == second.prepare
    assert Pipeline.of(experiments[0]).prepare != first.prepare
