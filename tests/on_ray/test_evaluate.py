"""What evaluation refuses and what it counts, on copies of the finished run."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.privacy import independent_auc
from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.on_ray.evaluate import _mask_of_step_0, check_evaluation, evaluate
from ray_ggsm.on_ray.quickstart import quickstart
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table
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


def test_a_report_says_where_step_0_has_another_mask(
    experiment: Callable[..., Experiment], finished: Experiment, beside: Callable[..., str]
) -> None:
    place = Pipeline.of(experiment(output=beside("train-")))
    assert not [*_mask_of_step_0(place)]
    learned = Pipeline.of(experiment(mask={"recipe": "hybrid_mask"}))
    (note,) = _mask_of_step_0(replace(learned, train=place.train))
    assert "hybrid_mask learns its mask" in note
    description = Path(place.train.encoder, "encoder.json")
    values = json.loads(description.read_text())
    description.write_text(json.dumps(values | {"alpha": 0.5}))
    (note,) = _mask_of_step_0(place)
    assert "training stopped with alpha 0.50" in note
    finished_mask = replace(place, experiment=experiment(embedding__mask="inference"))
    assert not [*_mask_of_step_0(finished_mask)]


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


OUTSIDERS = {"users": "test", "cutoffs": [0, 1, 2]}


def test_dimensions_and_privacy_are_in_the_report(experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """The card's AUCs are recomputed independently, on vectors that DuckDB takes from the files."""
    changes = {
        "data__splits__pretrain__cutoffs": [0, 1, 2],
        "data__splits__probe__cutoffs": [3],
        "data__splits__outsiders": OUTSIDERS,
        "embedding__splits": ["probe", "test", "pretrain", "outsiders"],
        "evaluation__dimensions": {"prefixes": [4, 8]},
        "evaluation__privacy": {"others": "outsiders"},
        "evaluation__kinds": ["linear"],
        "evaluation__linear": {"strengths": [0.1]},
        "output": str(tmp_path),
    }
    place = Pipeline.of(experiment(**changes))
    quickstart(place)
    results = json.loads(Path(place.evaluate.results_file).read_text())
    whole = results["encoder"]["linear"]
    mean = sum(label["auc"] for label in whole.values()) / len(whole)
    assert results["dimensions"][0]["auc"]["value"] == pytest.approx(mean, abs=1e-9)
    assert [(form["dimensions"], form["precision"]) for form in results["dimensions"]][::3] == [
        (24, "float32"), (8, "float32"), (4, "float32")
    ]  # fmt: skip
    page = Path(place.evaluate.report).read_text()
    assert "<h2>Privacy</h2>" in page
    assert "<h2>Dimensions and bytes</h2>" in page
    attacks = results["privacy"]["attacks"]
    for of, embedded in (("encoder", place.embed), ("untrained", place.embed_untrained)):
        keys = {split: f"{place.prepare.rows(split)}/*.parquet" for split in ("pretrain", "outsiders")}
        found = duckdb.sql(
            " union all ".join(
                f"select user_id, embedding, {int(split == 'pretrain')} from read_parquet('{files}') join "
                f"(select * from read_parquet({open_table(embedded.table).files()})) using (user_id, as_of)"
                for split, files in keys.items()
            )
        ).fetchall()
        users, vectors, member = (np.array(column) for column in zip(*found, strict=True))
        assert attacks["vectors"][of]["value"] == pytest.approx(independent_auc(users, vectors, member, 0.1), abs=0.004)


def test_groups_that_show_no_memorisation_are_refused(experiment: Callable[..., Experiment]) -> None:
    splits = ["probe", "test", "pretrain", "outsiders"]
    base = {"evaluation__privacy": {"others": "outsiders"}, "embedding__splits": splits}
    check_evaluation(experiment(**base, data__splits__outsiders={"users": "test", "cutoffs": [0, 1]}))
    for split, embedded, sentence in (
        ({"users": "test", "cutoffs": [0]}, splits, r"needs the cutoffs of 'pretrain', \[0, 1\].*found \[0\]"),
        ({"users": "test", "cutoffs": [0, 1]}, ["probe", "test", "outsiders"], "'pretrain' has no vectors"),
    ):
        with pytest.raises(InputError, match=sentence):
            check_evaluation(experiment(**{**base, "embedding__splits": embedded}, data__splits__outsiders=split))
    with pytest.raises(InputError, match="there is no split 'nobody'"):
        check_evaluation(experiment(evaluation__privacy={"others": "nobody"}))
