"""Trackers: the real MLflow and W&B where they are installed, and trackers that fail, hang or are slow."""

import json
import threading
from collections.abc import Sequence

import pytest

from ray_ggsm.config import InputError, build
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.learner import Metrics
from ray_ggsm.training.trackers import tracker as module
from ray_ggsm.training.trackers.config import MlflowConfig, WandbConfig, check_installed
from ray_ggsm.training.trackers.tracker import TrackedRun, Trackers, settings_of

LONG = 3600.0
"""Seconds that no machine needs."""
MLFLOW = MlflowConfig(kind="mlflow", uri="sqlite:///x.db", closing_seconds=LONG)
WANDB = WandbConfig(kind="wandb", closing_seconds=LONG)
RUN = TrackedRun("train-0123456789abcdef", {"training.steps": "7", "mask.recipe": "ggsm"})
STEPS = [{"step": n, "loss": 1 / n, "w_<USER>": 0.5} for n in range(1, 8)]


class Kept:
    """Keeps what it is told."""

    def __init__(self, *_: object) -> None:
        self.steps: list[Metrics] = []
        self.ended: list[bool] = []

    def log(self, steps: Sequence[Metrics]) -> None:
        self.steps += steps

    def end(self, done: bool) -> None:
        self.ended.append(done)


def run(maker, *, done: bool = True, configs=(MLFLOW,), said: list[str] | None = None):
    trackers = Trackers(configs, RUN, (said if said is not None else []).append, maker)
    for step in STEPS:
        trackers.log(step)
    return trackers.close(done)


@pytest.mark.parametrize("done", [True, False])
def test_every_step_arrives_once_and_in_order(done):
    kept = {"mlflow": Kept(), "wandb": Kept()}
    assert run(lambda config, _: kept[config.kind], done=done, configs=(MLFLOW, WANDB)) == {}
    for each in kept.values():
        assert each.steps == STEPS
        assert each.ended == [done]


def test_without_trackers_there_is_no_thread():
    before = threading.active_count()
    assert run(None, configs=()) == {}
    assert threading.active_count() == before


@pytest.mark.parametrize("where", ["begin", "log", "end"])
def test_a_tracker_that_fails_is_told_of_once(where):
    """The others have everything, and no credentials are printed."""

    class Fails(Kept):
        def __init__(self, *_: object) -> None:
            super().__init__()
            self.fail("begin")

        def fail(self, now: str) -> None:
            if now == where:
                raise ConnectionError("http://me:secret@server is gone")

        def log(self, steps: Sequence[Metrics]) -> None:
            self.fail("log")

        def end(self, done: bool) -> None:
            self.fail("end")

    said, kept = [], Kept()
    lacks = run(lambda c, r: Fails() if c.kind == "mlflow" else kept, configs=(MLFLOW, WANDB), said=said)
    assert len(said) == 1
    assert said[0].startswith(
        "train: the tracker mlflow failed (ConnectionError: http://server is gone); training goes"
    )
    number = 0 if where == "end" else 7
    assert lacks == {"mlflow": f"failed (ConnectionError: http://server is gone); it lacks {number} steps"}
    assert kept.steps == STEPS


def test_a_tracker_that_hangs_is_left_behind():
    """The loop's thread is never stopped; the end waits as long as it is told to."""
    released = threading.Event()

    class Hangs(Kept):
        def log(self, steps: Sequence[Metrics]) -> None:
            released.wait()

    lacks = run(Hangs, configs=[MLFLOW.model_copy(update={"closing_seconds": 0.01})])
    released.set()
    assert lacks["mlflow"] == "did not answer within 0 s; it lacks 7 steps"


def test_what_a_slow_tracker_cannot_take_is_counted(monkeypatch):
    monkeypatch.setattr(module, "WAITING", 3)
    released, kept = threading.Event(), Kept()

    def begins(*_: object) -> Kept:
        released.wait()
        return kept

    trackers = Trackers([MLFLOW], RUN, [].append, begins)
    for step in STEPS:
        trackers.log(step)
    released.set()
    assert trackers.close(True) == {"mlflow": "was too slow; it lacks 4 steps"}
    assert kept.steps == STEPS[:3]
    assert kept.ended == [True]


def test_settings_are_flat_texts():
    nested = {"training": {"steps": 7, "terms": ["ua", "uu"], "held_out": None}, "seed": 0, "long": "x" * 501}
    found = settings_of(nested)
    assert found.pop("long").startswith("digest ")
    assert found == {"training.steps": "7", "training.terms": '["ua", "uu"]', "seed": "0"}


def test_no_credentials_in_a_config():
    values = {"steps": 1, "batch_size": 2, "trackers": [{"kind": "mlflow", "uri": "https://me:secret@host"}]}
    with pytest.raises(InputError, match="MLFLOW_TRACKING_PASSWORD"):
        build(TrainingConfig, values, "example")


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("ray_ggsm.training.trackers.config.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"wandb is not installed; pip install 'ray-ggsm\[wandb\]'"):
        check_installed((WANDB,))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("store", ["sqlite", "files"])
def test_mlflow(tmp_path, monkeypatch, store):
    """The real client: metrics, settings and state; a run that goes on is the same run; nothing of the machine."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed (the extra `mlflow`)")
    if store == "sqlite":
        pytest.importorskip("alembic", reason="sqlite needs the whole of mlflow, not mlflow-skinny")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/runs.db" if store == "sqlite" else str(tmp_path / "runs")
    config, said = MlflowConfig(kind="mlflow", uri=uri, experiment="lifters", closing_seconds=LONG), []
    for done, steps in ((False, STEPS[:4]), (True, STEPS[4:])):
        trackers = Trackers([config], RUN, said.append)
        for step in steps:
            trackers.log(step)
        assert (trackers.close(done), said) == ({}, [])
    client = mlflow.MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name("lifters").experiment_id])
    assert (found.info.run_name, found.info.status) == (RUN.name, "FINISHED")
    assert found.data.params == RUN.settings
    for name, key in (("loss", "loss"), ("w_<USER>", "w__USER_")):
        history = client.get_metric_history(found.info.run_id, key)
        assert [(each.step, each.value) for each in history] == [(step["step"], step[name]) for step in STEPS]
    assert found.data.tags.keys() <= {"ray_ggsm.run", "mlflow.runName"}


@pytest.mark.filterwarnings("default")
def test_a_tracking_server_that_is_gone(monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed (the extra `mlflow`)")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said = []
    config = MlflowConfig(kind="mlflow", uri="http://127.0.0.1:9", closing_seconds=LONG)
    lacks = run(module.make, configs=[config], said=said)
    assert lacks["mlflow"].endswith("it lacks 7 steps")
    assert len(said) == 1


def log_records(content: bytes) -> list[bytes]:
    """The records of a file in LevelDB's log format, behind W&B's 7 bytes: blocks of 32 KiB; checksum, length, kind."""
    records, part, place = [], b"", 7
    while place + 7 <= len(content):
        if (left := -place % 32_768) < 7 and left:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        part += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records, part = [*records, part], b""
    return records


@pytest.mark.filterwarnings("default")
def test_wandb_offline(tmp_path, monkeypatch):
    """The real library, into files: every step is in them, and nothing of machine, packages or code."""
    wandb = pytest.importorskip("wandb", reason="wandb is not installed (the extra `wandb`)")
    monkeypatch.setenv("WANDB_SECRET_OF_OURS", "hunter2")
    config, said = WandbConfig(kind="wandb", mode="offline", directory=str(tmp_path), closing_seconds=LONG), []
    trackers = Trackers([config], RUN, said.append)
    for step in STEPS:
        trackers.log(step)
    assert (trackers.close(True), said) == ({}, [])
    wandb.teardown()  # the library's own process writes the file; this waits for it
    (file,) = tmp_path.rglob("*.wandb")
    from wandb.proto import wandb_internal_pb2

    records = [wandb_internal_pb2.Record.FromString(data) for data in log_records(file.read_bytes())]
    rows = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert [{name: row[name] for name in STEPS[0]} for row in rows] == STEPS
    text = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "debug.log")
    assert b"hunter2" not in text
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert not files & {"requirements.txt", "wandb-metadata.json", "diff.patch"}, wandb.__version__
