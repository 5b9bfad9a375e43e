"""The study job on the finished run: nothing is trained or scored twice, and baselines stand beside it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ray_ggsm.config import InputError
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.study import StudyConfig, preview, study


@pytest.fixture
def config(finished: Experiment, values: dict, tmp_path: Path) -> Callable[..., StudyConfig]:
    base = tmp_path / "base.yaml"
    base.write_text(yaml.safe_dump({**values, "output": "elsewhere"}, sort_keys=False))
    settings = {"name": "Clicks", "base": str(base), "output": finished.output, "seeds": (0,), "resamples": 100}
    return lambda **changes: StudyConfig(
        **{**settings, "variants": {"ggsm": {"mask.warmup_share": 0.5}}, "reference": "ggsm", **changes}
    )


def test_a_study_of_the_finished_run(config: Callable[..., StudyConfig], finished: Experiment, capsys) -> None:
    mine = config(joined=("ggsm",))
    assert "ggsm, seed 0: prepare, train, embed done" in preview(mine)
    summary = study(mine)
    assert summary["variants"].keys() == {"ggsm", "ggsm + hand-crafted", "hand-crafted", "event mean"}
    assert all(0 <= values["auc"]["mean"] <= 1 for values in summary["variants"].values())
    output = capsys.readouterr().out
    assert "differences is more than chance" in output or "differences are more" in output
    assert "train: writing" not in output
    scored = {file: os.stat(file).st_mtime_ns for file in Path(finished.output).glob("scores-*.parquet")}
    assert len(scored) == 4
    assert study(mine) == summary
    assert {file: os.stat(file).st_mtime_ns for file in scored} == scored


def test_unknown_names(config: Callable[..., StudyConfig]) -> None:
    with pytest.raises(InputError, match="reference: there is no variant 'x'; the variants are ggsm"):
        study(config(reference="x"))
    with pytest.raises(InputError, match="variants: 'hand-crafted' is the name of other vectors"):
        study(config(variants={"ggsm": {}, "hand-crafted": {}}))
    with pytest.raises(InputError, match=r"training\.stepz: unknown key"):
        study(config(variants={"ggsm": {}, "later": {"training.stepz": 1}}))
