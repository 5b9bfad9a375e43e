"""The study job on the finished run: nothing is trained or scored twice, and baselines stand beside it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ray_ggsm.config import InputError
from ray_ggsm.evaluation.labels import read_labels
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.study import preview, study
from ray_ggsm.on_ray.study_config import StudyConfig
from ray_ggsm.stages import Pipeline

UNTRAINED = {"embedding.checkpoint": "untrained"}


@pytest.fixture
def config(finished: Experiment, values: dict, tmp_path: Path) -> Callable[..., StudyConfig]:
    base = tmp_path / "base.yaml"
    base.write_text(yaml.safe_dump({**values, "output": "elsewhere"}, sort_keys=False))
    settings = {"name": "Clicks", "experiment": str(base), "output": finished.output, "seeds": (0,), "resamples": 100}
    return lambda **changes: StudyConfig(
        **{**settings, "variants": {"ggsm": {"mask.warmup_share": 0.5}}, "reference": "ggsm", **changes}
    )


def test_a_study_of_the_finished_run(config: Callable[..., StudyConfig], finished: Experiment, capsys) -> None:
    whole = config(joined=("ggsm",))
    assert "ggsm, seed 0: prepare, train, embed done" in preview(whole)
    summary = study(whole)
    assert summary.variants.keys() == {"ggsm", "ggsm + hand-crafted", "hand-crafted", "event mean"}
    assert set(summary.encoders) == {"ggsm"}
    evaluated = json.loads(Path(finished.output, "summary.json").read_text())["auc"]
    for name, table in {"ggsm": "encoder", "ggsm + hand-crafted": "joined", "hand-crafted": "handcrafted"}.items():
        assert summary.variants[name].auc == pytest.approx(evaluated[table]["linear"]), name
    output = capsys.readouterr().out
    assert "pairs, " in output
    assert "train: writing" not in output
    scored = {file: os.stat(file).st_mtime_ns for file in Path(finished.output).glob("scores-*.parquet")}
    assert len(scored) == 4
    assert study(whole) == summary
    assert {file: os.stat(file).st_mtime_ns for file in scored} == scored


def test_choices_are_scored_on_the_rows_of_the_probes(config: Callable[..., StudyConfig], finished: Experiment) -> None:
    """With `scored: fit`, nothing is asked of the test rows, and other scores are kept."""
    summary = study(config(scored="fit"))
    fit, score = (len(read_labels(Pipeline.of(finished).prepare.labels(s))) for s in finished.probe_splits)
    assert summary.rows == fit != score
    (page,) = [p for p in Path(finished.output).glob("study-*/study.html") if "no test row was scored" in p.read_text()]
    assert "Cost of training" in page.read_text()
    tested = study(config())
    for name, variant in summary.variants.items():
        assert variant.auc["mean"] != tested.variants[name].auc["mean"], name


def test_runs_side_by_side(config: Callable[..., StudyConfig], tmp_path: Path) -> None:
    shared = {"output": str(tmp_path / "out"), "seeds": (0, 1), "settings": {"training.steps": 2}, "baselines": ()}
    variants = {"ggsm": {"mask.warmup_share": 0.5}, "step 0": {"mask.warmup_share": 0.5, **UNTRAINED}}
    summary = study(config(variants=variants, parallel=2, **shared))
    assert {name: variant.seeds for name, variant in summary.variants.items()} == {"ggsm": (0, 1), "step 0": (0, 1)}
    assert len(list((tmp_path / "out").glob("train-*"))) == 2
    assert study(config(variants=variants, parallel=1, **shared)) == summary
    (page,) = (tmp_path / "out").glob("study-*/study.html")  # how many run at once makes no other study
    assert "Who differs from whom" in page.read_text()


def test_variants_with_other_data(config: Callable[..., StudyConfig], tmp_path: Path) -> None:
    """Each is prepared; what changes the test rows cannot be compared, and that is said before anything trains."""
    variants = {"ggsm": {}, "fewer": {"data.splits.test.users": "train", "data.splits.probe.users": "test"}}
    with pytest.raises(InputError, match="variants: not all have the same test rows and labels"):
        study(config(variants=variants, baselines=(), output=str(tmp_path / "out")))
    assert len(list((tmp_path / "out").glob("prepare-*/stage.json"))) == 2
    assert not list((tmp_path / "out").glob("train-*"))


def test_nothing_to_compare(config: Callable[..., StudyConfig]) -> None:
    with pytest.raises(InputError, match="variants: there is nothing to compare"):
        preview(config(baselines=()))


def test_questions_about_unknown_names(config: Callable[..., StudyConfig]) -> None:
    with pytest.raises(InputError, match=r"questions\[0\]: 'x' is not in the results, which are ggsm, hand-crafted"):
        study(config(questions=(("ggsm", "x"),)))


def test_unknown_names(config: Callable[..., StudyConfig]) -> None:
    with pytest.raises(InputError, match="reference: there is no variant 'x'; the variants are ggsm"):
        study(config(reference="x"))
    with pytest.raises(InputError, match="variants: 'hand-crafted' is the name of other vectors"):
        study(config(variants={"ggsm": {}, "hand-crafted": {}}))
    with pytest.raises(InputError, match="later: a study sets 'seed' of all its runs; use the study's own `seeds`"):
        study(config(variants={"ggsm": {}, "later": {"seed": 1}}))
    with pytest.raises(InputError, match="settings: a study sets 'output' of all its runs"):
        study(config(settings={"output": "elsewhere"}))
    with pytest.raises(InputError, match="seeds: each seed once; found 0, 0"):
        study(config(seeds=(0, 0)))
    with pytest.raises(InputError, match=r"training\.stepz: unknown key"):
        study(config(variants={"ggsm": {}, "later": {"training.stepz": 1}}))


def test_a_mean_of_event_vectors_that_nobody_reads(config: Callable[..., StudyConfig]) -> None:
    features = {"model": {"kind": "features"}, "mask": None, "training": {"steps": 1, "batch_size": 16}}
    without = {"plain": {"data.features": []}}
    with pytest.raises(InputError, match=r"baselines: hand-crafted features are needed, and 'plain' has none"):
        preview(config(variants=without, reference="plain", baselines=("hand-crafted",), joined=()))
    with pytest.raises(InputError, match=r"joined: hand-crafted features are needed, and 'plain' has none"):
        preview(config(variants=without, reference="plain", baselines=("event mean",), joined=("plain",)))
    with pytest.raises(InputError, match="baselines: 'event mean' needs the event vectors of the first variant"):
        preview(config(variants={"features": features}, reference="features"))
