"""Rows that were damaged after `prepare` are set aside with a reason; too many of them stop the run."""

import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from ray_ggsm import storage
from ray_ggsm.cli.jobs import JOBS
from ray_ggsm.cli.main import run
from ray_ggsm.config import InputError
from ray_ggsm.on_ray.building.encode import _counter
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.on_ray.evaluate import evaluate
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table
from tests.helpers import ROOT
from tests.helpers.waiting import wait_until


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
    changed = experiment(output=beside("prepare-", "train-", "event_vectors"))
    users = damage(changed, 1)
    table, whole = open_table(embed(Pipeline.of(changed))).read(), open_table(embed(Pipeline.of(finished))).read()
    assert len(table) == len(whole) - 1
    stage = Pipeline.of(changed).embed
    (dead,) = pq.read_table(storage.join(stage.staging, "dead_letters")).to_pylist()
    assert (dead["user_id"], dead["reason"], dead["detail"]) == (users[0], "non_finite_number", "tabular")
    result = stage.result()
    assert (result.rows, result.dead_letters) == (len(table), 1)
    assert result.events == result.events_found_in_store > 0


def test_a_run_that_ends_between_its_commit_and_its_result(experiment: Callable, finished, beside: Callable) -> None:
    """The next one publishes nothing again, removes what is staged, and reports what was published."""
    again = experiment(output=beside("prepare-", "train-", "embed-", "event_vectors"))
    stage = Pipeline.of(again).embed
    before, result = open_table(stage.table), stage.result()
    storage.remove(storage.join(stage.location, "stage.json"))
    storage.write_text(storage.join(stage.staging, "rows", "on--1", "part-00000.parquet"), "left over")
    embed(Pipeline.of(again))
    assert open_table(stage.table).version == before.version == 0
    assert stage.result().rows == result.rows == len(before.read())
    assert stage.result().events == result.events
    assert not storage.list_files(storage.join(stage.staging, "rows"))
    report = storage.read_json(storage.join(stage.location, "report.json"))
    assert report["version"] == 0
    assert list(report["seconds"]) == ["all"]


def test_too_many_bad_rows_fail_a_gate_unless_there_is_a_reason(
    experiment: Callable, finished, beside: Callable, tmp_path: Path, capsys
) -> None:
    changed = experiment(output=beside("prepare-", "train-", "event_vectors"))
    damage(changed, 5)
    file = tmp_path / "config.json"
    file.write_text(changed.model_dump_json())
    assert run(JOBS["embed"], ["--config", str(file)]) == 3
    sentence = capsys.readouterr().err
    assert re.search(r"error: nothing was published.*\n  dead_letters: 5 of \d+ rows got no vector", sentence), sentence
    stage = Pipeline.of(changed).embed
    assert stage.result() is None
    assert storage.list_files(storage.join(stage.table, "data")), "what was embedded is kept"
    assert not storage.exists(storage.join(stage.table, "_delta_log"))
    assert run(JOBS["embed"], ["--config", str(file), "--publish-anyway", "five are known"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"embed: 0 of \d+ buckets are to do", output), output
    metadata = open_table(stage.table).metadata()
    assert metadata.published_anyway == "five are known"
    assert metadata.failed_gates == ("dead_letters",)
    assert metadata.counts.dead_letters == 5


def test_every_instruction_gets_a_vector_of_its_own(experiment: Callable, finished, beside: Callable) -> None:
    instructions = {"plain": "", "spend": "how much will they spend?"}
    changed = experiment(
        output=beside("prepare-", "train-", "event_vectors"),
        embedding={**finished.embedding.model_dump(), "instructions": instructions},
        publishing={"rows_per_bucket": 40},
    )
    table, whole = open_table(embed(Pipeline.of(changed))), open_table(embed(Pipeline.of(finished)))
    assert table.buckets > 1
    users, plain_ND = table.matrix(instruction="plain", as_of="2024-03-28")
    others, vector_ND = whole.matrix(as_of="2024-03-28")
    order = {user: row for row, user in enumerate(others)}
    np.testing.assert_allclose(plain_ND, vector_ND[[order[user] for user in users]], atol=1e-5)
    _, spend_ND = table.matrix(instruction="spend", as_of="2024-03-28")
    assert np.abs(spend_ND - plain_ND).max() > 1e-3


def test_evaluation_refuses_to_compare_the_untrained_encoder_with_itself(finished) -> None:
    with pytest.raises(InputError, match=r"embedding\.checkpoint"):
        evaluate(Pipeline.of(finished).untrained)


class Counting:
    """An actor that counts as those that encode do, and lives on."""

    def __init__(self, build: Any, name: str = "users_embedded") -> None:
        self.counter = _counter(build, name, "Users whose vectors were computed")

    def count(self, users: int) -> None:
        self.counter.inc(users)


def test_prometheus_finds_the_counters_by_table_and_run() -> None:
    """Under the name that docs/tables.md gives, where Ray exports them."""
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    builds = [SimpleNamespace(table="s3://key:secret@bucket/users", run=run) for run in ("r1", "r2")]
    actors = [ray.remote(num_cpus=0)(Counting).remote(build) for build in builds]
    for actor, users in zip(actors, (5, 7), strict=True):
        ray.get(actor.count.remote(users))

    def exported() -> dict[tuple[str, str], float]:
        with urllib.request.urlopen(address) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = [s for f in families for s in f.samples if s.name == "ray_ggsm_users_embedded_total"]
        found = {(s.labels["table"], s.labels["run"]): s.value for s in samples}
        return found if ("s3://bucket/users", "r1") in found and ("s3://bucket/users", "r2") in found else {}

    found = wait_until(exported)
    assert found["s3://bucket/users", "r1"] == 5
    assert found["s3://bucket/users", "r2"] == 7
    assert "ray_ggsm_users_embedded_total" in (ROOT / "docs" / "tables.md").read_text()
