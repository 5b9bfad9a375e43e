"""Rows that were damaged after `prepare` are set aside with a reason; too many of them stop the run."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray_ggsm.stages import Pipeline

from ray_ggsm import storage
from ray_ggsm.cli import run
from ray_ggsm.config import InputError
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.on_ray.evaluate import evaluate
from ray_ggsm.tables import open_table


def damage(experiment, rows: int) -> list[str]:
    """Make the first `rows` test rows' numbers infinite; returns their users."""
    (file, *_) = sorted(Path(Pipeline.of(experiment).prepare.rows("test")).glob("*.parquet"))
    table = pq.read_table(file)
    numbers = [[float("inf")] * 3 if i < rows else row for i, row in enumerate(table["tabular"].to_pylist())]
    position = table.column_names.index("tabular")
    damaged = pa.array(numbers, pa.list_(pa.float32()))
    pq.write_table(table.set_column(position, table.schema.field("tabular"), damaged), file)
    return table["user_id"][:rows].to_pylist()


def test_a_bad_row_is_set_aside_and_the_others_are_embedded(experiment: Callable, finished, beside: Callable) -> None:
    mine = experiment(output=beside("prepare-", "train-", "event_vectors"))
    users = damage(mine, 1)
    table, whole = open_table(embed(Pipeline.of(mine))).read(), open_table(embed(Pipeline.of(finished))).read()
    assert len(table) == len(whole) - 1
    (dead,) = pq.read_table(Pipeline.of(mine).embed.path("staging", "dead_letters")).to_pylist()
    assert (dead["user_id"], dead["reason"], dead["detail"]) == (users[0], "non_finite_number", "tabular")
    assert Pipeline.of(mine).embed.result()["dead_letters"] == 1


def test_too_many_bad_rows_fail_a_gate_unless_there_is_a_reason(
    experiment: Callable, finished, beside: Callable, tmp_path: Path, capsys
) -> None:
    mine = experiment(output=beside("prepare-", "train-", "event_vectors"))
    damage(mine, 5)
    file = tmp_path / "config.json"
    file.write_text(mine.model_dump_json())
    assert run("", embed, None, ["--config", str(file)], publishes=True) == 3
    sentence = capsys.readouterr().err
    assert re.search(r"error: nothing was published.*\n  dead_letters: 5 of \d+ rows got no vector", sentence), sentence
    place = Pipeline.of(mine).embed
    assert place.result() is None
    assert storage.list_files(place.path("staging", "blocks")), "what was embedded is kept"
    assert not storage.exists(place.path("table", "_delta_log"))
    arguments = ["--config", str(file), "--publish-anyway", "five are known"]
    assert run("", embed, None, arguments, publishes=True) == 0
    said = capsys.readouterr().out
    assert re.search(r"embed: 0 of \d+ blocks are to do", said), said
    metadata = open_table(place.path("table")).metadata()
    assert metadata["published_anyway"] == "five are known"
    assert metadata["failed_gates"] == ["dead_letters"]
    assert metadata["counts"]["dead_letters"] == 5


def test_every_instruction_gets_a_vector_of_its_own(experiment: Callable, finished, beside: Callable) -> None:
    instructions = {"plain": "", "spend": "how much will they spend?"}
    mine = experiment(
        output=beside("prepare-", "train-", "event_vectors"),
        embedding={**finished.embedding.model_dump(), "instructions": instructions},
        publishing={"rows_per_bucket": 40},
    )
    table, whole = open_table(embed(Pipeline.of(mine))), open_table(embed(Pipeline.of(finished)))
    assert table.buckets > 1
    users, plain_ND = table.matrix(instruction="plain", as_of="2024-03-28")
    others, vector_ND = whole.matrix(as_of="2024-03-28")
    order = {user: row for row, user in enumerate(others)}
    np.testing.assert_allclose(plain_ND, vector_ND[[order[user] for user in users]], atol=1e-5)
    _, spend_ND = table.matrix(instruction="spend", as_of="2024-03-28")
    assert np.abs(spend_ND - plain_ND).max() > 1e-3


def test_evaluation_refuses_to_compare_the_untrained_encoder_with_itself(finished) -> None:
    with pytest.raises(InputError, match=r"embedding\.checkpoint"):
        evaluate(untrained(finished))


def test_an_unknown_stage_is_named(experiment: Callable, finished) -> None:
    with pytest.raises(InputError, match=r"embedding.splits: .*'prob'"):
        embed(Pipeline.of(experiment(embedding__splits=["prob"])))
