"""Rows that were damaged after `prepare` are set aside with a reason; too many of them stop the run."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.experiment import stages, untrained
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.on_ray.evaluate import evaluate


def damage(experiment, rows: int) -> list[str]:
    """Make the first `rows` test rows' numbers infinite; returns their users."""
    (file, *_) = sorted(Path(stages(experiment)["prepare"].path("rows", "test")).glob("*.parquet"))
    table = pq.read_table(file)
    numbers = [[float("inf")] * 3 if i < rows else row for i, row in enumerate(table["tabular"].to_pylist())]
    position = table.column_names.index("tabular")
    damaged = pa.array(numbers, pa.list_(pa.float32()))
    pq.write_table(table.set_column(position, table.schema.field("tabular"), damaged), file)
    return table["user_id"][:rows].to_pylist()


def test_a_bad_row_is_set_aside_and_the_others_are_embedded(experiment: Callable, finished, beside: Callable) -> None:
    mine = experiment(output=beside("prepare-", "train-", "event_vectors"))
    users = damage(mine, 1)
    table = pq.read_table([str(f) for f in Path(embed(mine)).glob("*.parquet")])
    whole = pq.read_table([str(f) for f in Path(embed(finished)).glob("*.parquet")])
    assert len(table) == len(whole) - 1
    (dead,) = pq.read_table(stages(mine)["embed"].path("dead_letters")).to_pylist()
    assert (dead["user_id"], dead["reason"], dead["detail"]) == (users[0], "non_finite_number", "tabular")
    assert stages(mine)["embed"].result()["dead_letters"] == 1


def test_too_many_bad_rows_stop_the_run(experiment: Callable, beside: Callable) -> None:
    mine = experiment(output=beside("prepare-", "train-", "event_vectors"))
    damage(mine, 5)
    with pytest.raises(InputError, match=r"5 of \d+ rows were rejected .* raise max_bad_share"):
        embed(mine)
    assert stages(mine)["embed"].result() is None


def test_evaluation_refuses_to_compare_the_untrained_encoder_with_itself(finished) -> None:
    with pytest.raises(InputError, match=r"embedding\.checkpoint"):
        evaluate(untrained(finished))


def test_an_unknown_stage_is_named(experiment: Callable, finished) -> None:
    with pytest.raises(InputError, match=r"embedding.stages: .*'prob'"):
        embed(experiment(embedding__stages=["prob"]))
