"""Other kinds of encoders than the language model through train, embed, evaluate and refresh: the same jobs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_ggsm.config import InputError, build
from ray_ggsm.experiment import Experiment
from ray_ggsm.model.kinds import FoundConfig
from ray_ggsm.on_ray.lookalike import LookalikeConfig, lookalike
from ray_ggsm.on_ray.quickstart import quickstart
from ray_ggsm.on_ray.refresh import RefreshConfig, refresh
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table

SMALL = {"newest": 20, "width": 8, "state": 8}


@pytest.mark.parametrize(
    "model",
    [{"kind": "features"}, {"kind": "found", **SMALL}, {"kind": "supervised", **SMALL}],
    ids=lambda m: m["kind"],
)
def test_a_kind_goes_through_all_jobs(
    model: dict[str, Any], experiment: Callable[..., Experiment], values: dict, beside: Callable, tmp_path: Path
) -> None:
    if model["kind"] != "features":
        model = {**model, "event_encoder": values["model"]["event_encoder"]}
    training = {"steps": 3, "batch_size": 16, "checkpoint_every": 2, "centre_rows": 32}
    place = Pipeline.of(
        experiment(model=model, mask=None, training=training, output=beside("prepare-", "event_vectors"))
    )
    quickstart(place)
    made = open_table(place.embed.table).read(columns=["user_id", "as_of", "embedding", "events"])
    test_rows = {
        (u, t): v for u, t, v in zip(*(made[c].to_pylist() for c in ("user_id", "as_of", "embedding")), strict=True)
    }
    table = str(tmp_path / "users")
    config = build(
        RefreshConfig,
        {
            "rows": f"{place.prepare.rows('test')}/*.parquet", "encoder": place.train.encoder, "table": table,
            "event_vectors": place.event_vectors, "publishing": {"gates": {"max_similarity": 1.0}},
        },
        "test",
    )  # fmt: skip
    assert refresh(config) == 0
    found = open_table(table).read().to_pylist()
    assert found
    for row in found:
        np.testing.assert_allclose(row["embedding"], test_rows[row["user_id"], row["as_of"]], atol=1e-5)
    told = {
        "table": table,
        "text": "buy: item 3",
        "encoder": place.train.encoder,
        "k": 5,
        "output": f"{tmp_path}/a.parquet",
    }
    if isinstance(place.experiment.model, FoundConfig):
        assert len(lookalike(build(LookalikeConfig, told, "test"))) == 5
    else:
        with pytest.raises(InputError, match="has learned nothing about texts"):
            lookalike(build(LookalikeConfig, told, "test"))
    trained = list(Path(place.train.location).glob("runs/*/checkpoint_*"))
    assert bool(trained) == (model["kind"] != "features")
    if model["kind"] == "features":
        assert set(made["events"].to_pylist()) == {0}
