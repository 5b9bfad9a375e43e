"""What evaluation refuses and what it counts, on copies of the finished run."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.on_ray.evaluate import check_evaluation, evaluate
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables.maintenance import forget


def test_missing_vectors_are_an_error_or_left_out_everywhere_and_counted(
    experiment: Callable[..., Experiment], finished: Experiment, beside: Callable[..., str], capsys
) -> None:
    output = beside("prepare-", "train-", "embed-")
    place = Pipeline.of(experiment(output=output))
    table = place.embed.table
    moved = place.embed.require().model_copy(update={"table": table})
    storage.write_json(place.embed.path("stage.json"), moved.model_dump(mode="json"))
    rows = pq.read_table(place.prepare.labels("test"))["user_id"].to_pylist()
    forget(table, rows[:1], b"k" * 32)  # the trained encoder's table only: the untrained one still has the user
    with pytest.raises(InputError, match=rf"test labels: 1 of {len(rows)} rows have no row .*evaluation.allow_missing"):
        evaluate(Pipeline.of(experiment(output=output)))
    allowing = experiment(output=output, evaluation__allow_missing=True, evaluation__kinds=["linear"])
    summary = evaluate(Pipeline.of(allowing))
    counts = json.loads(Path(Pipeline.of(allowing).evaluate.path("results.json")).read_text())["counts"]
    assert (counts["test"]["rows"], counts["test"]["without_vector"]) == (len(rows) - 1, 1)
    assert counts["probe"]["without_vector"] == 0
    assert all(sum(label.values()) == len(rows) - 1 for label in counts["test"]["labels"].values())
    assert summary.rows["test"] == len(rows) - 1
    assert f"test: {len(rows) - 1} rows; left out: 1 rows without a vector" in capsys.readouterr().out


def test_splits_that_leak_are_refused_before_anything_runs(experiment: Callable[..., Experiment]) -> None:
    check_evaluation(experiment())
    same = experiment(data__splits__test={"role": "score", "users": "test", "cutoffs": [3]})
    with pytest.raises(InputError, match="futures of 'probe' and 'test' overlap"):
        check_evaluation(same)
    check_evaluation(
        experiment(
            data__splits__test={"role": "score", "users": "test", "cutoffs": [3]}, evaluation__allow_same_period=True
        )
    )
    with pytest.raises(InputError, match="'probe' and 'test' can share users"):
        check_evaluation(experiment(data__splits__test={"role": "score", "users": "all", "cutoffs": [4]}))


def test_each_label_is_judged_on_the_vectors_of_its_instruction(
    experiment: Callable[..., Experiment], finished: Experiment, beside: Callable[..., str]
) -> None:
    """With two instructions in one table, as with a table for each of them."""
    output = beside("prepare-", "train-")
    first, second = finished.data.labels

    def evaluated(instructions: dict[str, str], of_label: dict[str, str]) -> dict[str, dict[str, float]]:
        pipeline = Pipeline.of(experiment(
            output=output, embedding__instructions=instructions, evaluation__instructions=of_label,
            evaluation__kinds=["linear"],
        ))  # fmt: skip
        embed(pipeline)
        embed(pipeline.untrained)
        return {name: kinds["linear"] for name, kinds in evaluate(pipeline).auc.items()}

    texts = {"plain": "", "next": "what will the user do next?"}
    both = evaluated(texts, {first: "plain", second: "next"})
    plain, asked = (evaluated({name: text}, {}) for name, text in texts.items())
    assert {name: auc[first] for name, auc in both.items()} == {name: auc[first] for name, auc in plain.items()}
    assert {name: auc[second] for name, auc in both.items()} == {name: auc[second] for name, auc in asked.items()}
    assert plain["encoder"] != asked["encoder"]
    assert plain["handcrafted"] == asked["handcrafted"]
