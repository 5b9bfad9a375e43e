"""Training on several workers, and training that is interrupted, ends where one undisturbed worker ends."""

import json
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_ggsm import storage
from ray_ggsm.cli.jobs import JOBS
from ray_ggsm.cli.main import run
from ray_ggsm.config import InputError
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.on_ray.train import train
from ray_ggsm.on_ray.training.pairs import stream
from ray_ggsm.stages import Pipeline
from ray_ggsm.training.pairs import Pairs
from ray_ggsm.training.resume import unlike_runs
from ray_ggsm.training.workers import Workers
from tests.helpers.undisturbed import undisturbed, weights


def log(location: str) -> list[dict[str, float]]:
    return json.loads(Path(location, "log.json").read_text())


def test_two_workers_train_as_one(experiment: Callable, finished, beside: Callable) -> None:
    alone = train(Pipeline.of(finished))
    both = train(Pipeline.of(experiment(output=beside("prepare-", "event_vectors"), ray__train_workers=2)))
    for key in ("loss", "accuracy", "grad_norm", "w_mean", "w_p5", "w_p95"):
        np.testing.assert_allclose([e[key] for e in log(both)], [e[key] for e in log(alone)], rtol=1e-4, err_msg=key)
    found = weights(Path(both, "encoder"))
    for key, tensor in weights(Path(alone, "encoder")).items():
        np.testing.assert_allclose(found[key], tensor, rtol=1e-3, atol=1e-5, err_msg=key)


def test_metrics_go_to_a_register_and_one_that_fails_ends_nothing(
    experiment: Callable, finished, beside: Callable, tmp_path: Path, capsys, monkeypatch
) -> None:
    """MLflow has every step of the first of two workers, and W&B, without a key, is told of once and recorded."""
    mlflow, _, _ = (pytest.importorskip(name, reason=f"{name} is missing") for name in ("mlflow", "wandb", "alembic"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    uri = f"sqlite:///{tmp_path}/runs.db"
    trackers = [
        {"kind": "mlflow", "uri": uri, "closing_seconds": 3600.0},
        {"kind": "wandb", "directory": str(tmp_path), "closing_seconds": 3600.0},
    ]
    mine = experiment(output=beside("prepare-", "event_vectors"), ray__train_workers=2, training__trackers=trackers)
    stage = Pipeline.of(mine).train
    location = train(Pipeline.of(mine))
    client = mlflow.MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name("ray_ggsm").experiment_id])
    assert (found.info.run_name, found.info.status) == (stage.directory, "FINISHED")
    assert found.data.params["training.batch_size"] == str(mine.training.batch_size)
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(each.step, each.value) for each in history] == [(e["step"], e["loss"]) for e in log(location)]
    assert capsys.readouterr().out.count("the tracker wandb failed") == 1
    assert stage.require().trackers.keys() == {"wandb"}


def test_an_encoder_learns_to_be_read_as_an_older_one(
    experiment: Callable, finished, beside: Callable, tmp_path: Path, capsys
) -> None:
    """Results depend on what the older encoder is, not on where; one that cannot read the rows is refused."""
    older = shutil.copytree(Pipeline.of(finished).train.encoder, tmp_path / "older")
    place = {"output": beside("prepare-", "event_vectors"), "seed": 3}
    mine = Pipeline.of(experiment(**place, training__old_space={"encoder": str(older)}))
    assert mine.train != Pipeline.of(experiment(**place)).train
    elsewhere = shutil.copytree(older, tmp_path / "elsewhere")
    there = experiment(**place, training__old_space={"encoder": str(elsewhere)})
    assert Pipeline.of(there).train == mine.train
    losses = [entry["loss_old_space"] for entry in log(train(mine))]
    assert 0 < losses[-1] < losses[0]

    change(elsewhere / "encoder.json", step=99)
    assert Pipeline.of(there).train != mine.train
    change(elsewhere / "encoder.json", event_encoder_digest="other")
    with pytest.raises(InputError, match=r"training.old_space: .* another event encoder"):
        train(Pipeline.of(there))
    change(elsewhere / "rows.json", history_days=3)
    with pytest.raises(InputError, match=r"training.old_space: .* rows that are made otherwise"):
        train(Pipeline.of(there))
    (elsewhere / "rows.json").unlink()
    with pytest.raises(InputError, match=r"training.old_space: .* has no rows.json"):
        train(Pipeline.of(there))
    (Path(mine.train.location) / "stage.json").unlink()
    capsys.readouterr()
    shutil.copy(older / "rows.json", elsewhere)
    change(elsewhere / "encoder.json", event_encoder_digest="")
    train(Pipeline.of(there))  # it is said to read no events
    assert "does not go on, because of another older encoder" in capsys.readouterr().out


def change(file: Path, **values: Any) -> None:
    """Change values of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def is_training_worker(process: psutil.Process) -> bool:
    try:
        return "RayTrainWorker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def kill_workers(location: Path, steps: list[int], kills: list[int], trained: threading.Event) -> None:
    """SIGKILL every training worker whenever the log, which is written with each checkpoint, has passed a step.

    Only a log written since the last kill counts, so no worker is killed before it has loaded its checkpoint.
    """
    written = location / "log.json"
    before_kill = None
    for step in steps:
        while True:
            workers = [p for p in psutil.Process().children(recursive=True) if is_training_worker(p)]
            if trained.is_set():
                return
            if workers and modified(written) != before_kill and len(json.loads(written.read_text() or "[]")) >= step:
                break
            time.sleep(0.02)
        for process in workers:
            process.kill()
        psutil.wait_procs(workers)
        before_kill = modified(written)
        kills.append(step)


def modified(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.exists() else None


def test_a_worker_killed_at_random_steps_changes_no_bit(
    experiment: Callable, finished, beside: Callable, tmp_path: Path, capsys
) -> None:
    """Dropout, mask importance, optimiser and data order are those of an undisturbed run after every restart."""
    mine = experiment(
        output=beside("prepare-", "event_vectors"), training__steps=60, training__checkpoint_every=6,
        model__tabular_dropout=0.2, mask__smoothing=0.5,
    )  # fmt: skip
    expected, expected_log = undisturbed(mine, tmp_path / "undisturbed")
    # after step 6: the first checkpoint may be written and not yet known to Ray when its worker is killed;
    # long before the last: the killer may be slow to see a checkpoint
    steps = sorted(random.Random(time.time_ns()).sample(range(7, 37), 2))
    kills: list[int] = []
    trained = threading.Event()
    place = Path(Pipeline.of(mine).train.location)
    killer = threading.Thread(target=kill_workers, args=(place, steps, kills, trained), daemon=True)
    killer.start()
    capsys.readouterr()
    try:
        location = train(Pipeline.of(mine))
    finally:
        trained.set()
        killer.join()
    said = capsys.readouterr().out
    assert kills, f"nothing was killed; {steps}"
    assert said.count("goes on from step") >= len(kills), said  # from a checkpoint, not from the start
    assert [entry["step"] for entry in log(location)] == list(range(1, 61))
    for key in ("loss", "grad_norm", "w_spread", "grad_norm/bill"):
        assert [e.get(key) for e in log(location)] == [e.get(key) for e in expected_log], (key, steps)
    for key, tensor in weights(Path(location, "encoder")).items():
        np.testing.assert_array_equal(tensor, expected[key], err_msg=f"{key}, killed at {steps}")


def test_the_best_of_the_kept_checkpoints_is_published(experiment: Callable, finished, beside: Callable) -> None:
    mine = experiment(
        output=beside("event_vectors"),
        data__splits__probe__future=True,
        training__held_out={"split": "probe", "rows": 24, "publish": "best"},
        training__optimizer={"learning_rate": 0.03},
        training__checkpoint_every=1,
    )
    prepare(Pipeline.of(mine))
    location = train(Pipeline.of(mine))
    losses = {int(e["step"]): e["held_out_loss"] for e in log(location)}
    step = json.loads(Path(location, "stage.json").read_text())["best_step"]
    assert list(losses) == list(range(1, 7))
    assert losses[step] == min(losses.values())
    assert json.loads(Path(location, "encoder", "encoder.json").read_text())["step"] == step
    assert set(pq.read_table(f"{location}/log.parquet").column_names) >= {"loss", "held_out_loss", "utilisation"}
    assert list(Path(location, "tensorboard").glob("events*"))


def test_held_out_pairs_must_be_enough_for_all_workers(experiment: Callable, finished, beside: Callable) -> None:
    mine = experiment(
        output=beside("event_vectors"), data__splits__probe__future=True, ray__train_workers=3,
        training__held_out={"split": "probe", "rows": 2},
    )  # fmt: skip
    prepare(Pipeline.of(mine))
    with pytest.raises(InputError, match="2 rows of 'probe' are too few"):
        train(Pipeline.of(mine))


def test_the_oracle_goes_through_all_stages_untrained(experiment: Callable, finished, beside: Callable) -> None:
    mine = experiment(output=beside("prepare-", "event_vectors"), mask={"recipe": "oracle"})
    location = train(Pipeline.of(mine))
    assert log(location) == []
    final, start = weights(Path(location, "encoder")), weights(Path(location, "untrained"))
    assert all(np.array_equal(final[key], tensor) for key, tensor in start.items())


def test_an_interrupted_run_of_other_settings_is_named(finished, capsys, tmp_path: Path) -> None:
    first, second, all_runs = (str(tmp_path / name) for name in ("train-1", "train-2", "train-*"))
    assert unlike_runs(first, all_runs, {"training": {"steps": 3, "batch_size": 4}, "seed": 0}) == []
    assert unlike_runs(first, all_runs, {"training": {"steps": 3, "batch_size": 4}, "seed": 0}) == []  # it goes on
    (sentence,) = unlike_runs(second, all_runs, {"training": {"steps": 5, "batch_size": 4}, "seed": 0})
    assert f"{tmp_path}/train-1 does not go on, because of another training.steps (3 -> 5)" in sentence
    storage.write_json(f"{first}/stage.json", {})
    assert unlike_runs(second, all_runs, {"training": {"steps": 5, "batch_size": 4}, "seed": 0}) == []


@pytest.mark.parametrize("first", [0, 7])
def test_pairs_come_in_the_order_of_the_steps(first: int, tmp_path: Path) -> None:
    rows = pa.table({"user_id": [str(i) for i in range(300)]})
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=20)
    pairs = Pairs(str(tmp_path), 17, 0, window_groups=2)
    workers = Workers(1, 2, lambda rows: rows, lambda tensor: tensor)
    found = [table["user_id"].to_pylist() for table in stream(pairs, first, 41, workers)]
    assert found == [pairs.batch(step, 1, 2)["user_id"].to_pylist() for step in range(first, 41)]


def test_a_model_that_is_not_there(experiment: Callable, finished, tmp_path: Path, capsys) -> None:
    """The sentence of a worker reaches the user, with exit code 2."""
    file = tmp_path / "config.json"
    file.write_text(finished.model_dump_json())
    for key in ("backbone", "event_encoder"):
        code = run(JOBS["train"], ["--config", str(file), "--set", f"model.{key}.name={tmp_path}/nowhere"])
        error = capsys.readouterr().err
        assert code == 2
        assert f"error: model '{tmp_path}/nowhere' cannot be loaded" in error
        assert "Traceback" not in error


def test_a_run_that_diverges_says_what_to_try(experiment: Callable, finished, beside: Callable) -> None:
    mine = experiment(output=beside("prepare-", "event_vectors"), training__optimizer={"learning_rate": 1e30})
    with pytest.raises(Exception, match=r"try a lower training\.optimizer\.learning_rate; .* users are listed in"):
        train(Pipeline.of(mine))
    (listed,) = Path(mine.output).glob("train-*/diverged-0.json")
    assert len(json.loads(listed.read_text())) == mine.training.batch_size
