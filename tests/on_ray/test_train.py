"""Training on several workers, and training that is interrupted, ends where one undisturbed worker ends."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from ray_ggsm.cli import run
from ray_ggsm.on_ray.train import train


def log(location: str) -> list[dict[str, float]]:
    return json.loads(Path(location, "log.json").read_text())


def weights(location: str) -> dict[str, np.ndarray]:
    names = ("adapter_model", "modules", "mask")
    return {f"{n}/{key}": t for n in names for key, t in load_file(f"{location}/encoder/{n}.safetensors").items()}


def test_two_workers_train_as_one(experiment: Callable, finished, beside: Callable) -> None:
    alone = train(finished)
    both = train(experiment(output=beside("prepare-", "event_vectors"), ray__train_workers=2))
    for key in ("loss", "accuracy", "grad_norm", "w_mean", "w_p5", "w_p95"):
        np.testing.assert_allclose([e[key] for e in log(both)], [e[key] for e in log(alone)], rtol=1e-4, err_msg=key)
    for key, tensor in weights(alone).items():
        np.testing.assert_allclose(weights(both)[key], tensor, rtol=1e-3, atol=1e-5, err_msg=key)


def kill_worker_after_checkpoint(location: Path) -> None:
    """Wait until Ray Train has registered a checkpoint, then kill the training worker with SIGKILL."""
    while not (location / "runs/train/checkpoint_manager_snapshot.json").exists():
        time.sleep(0.02)
    for process in psutil.Process().children(recursive=True):
        if "RayTrainWorker" in " ".join(process.cmdline()):
            process.kill()


def test_a_killed_worker_changes_nothing(experiment: Callable, finished, beside: Callable, tmp_path: Path) -> None:
    output = beside("prepare-", "event_vectors")
    settings = {"training__steps": 80, "training__checkpoint_every": 4}
    undisturbed = train(experiment(**settings))
    killer = threading.Thread(
        target=kill_worker_after_checkpoint, args=(tmp_path / Path(undisturbed).name,), daemon=True
    )
    killer.start()
    disturbed = train(experiment(output=output, **settings))
    killer.join(timeout=1)
    assert not killer.is_alive(), "nothing was killed"
    steps = [entry["step"] for entry in log(disturbed)]
    assert steps == list(range(1, 81))
    assert [e["loss"] for e in log(disturbed)] == [e["loss"] for e in log(undisturbed)]
    expected, found = weights(undisturbed), weights(disturbed)
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)


def test_a_model_that_is_not_there(experiment: Callable, finished, tmp_path: Path, capsys) -> None:
    """The sentence of a worker reaches the user, with exit code 2."""
    file = tmp_path / "config.json"
    file.write_text(finished.model_dump_json())
    for key in ("backbone", "event_encoder"):
        code = run("", train, None, ["--config", str(file), "--set", f"model.{key}.name={tmp_path}/nowhere"])
        error = capsys.readouterr().err
        assert code == 2
        assert f"error: model '{tmp_path}/nowhere' cannot be loaded" in error
        assert "Traceback" not in error


def test_a_run_that_diverges_says_what_to_try(experiment: Callable, finished, beside: Callable) -> None:
    mine = experiment(output=beside("prepare-", "event_vectors"), training__optimizer={"learning_rate": 1e30})
    with pytest.raises(Exception, match=r"try a lower training\.optimizer\.learning_rate"):
        train(mine)
