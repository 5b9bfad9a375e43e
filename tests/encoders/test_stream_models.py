"""What all kinds that read streams hold: vectors are those of rows alone, runs go on exactly, two workers are one."""

import json
import os
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ray_ggsm.config import InputError
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders import kinds
from ray_ggsm.encoders.found import Found, Sentences
from ray_ggsm.encoders.kinds import Inputs, Run, new_learner
from ray_ggsm.encoders.stream import StreamReader
from ray_ggsm.hashing import hash64
from ray_ggsm.model.config import EventEncoderConfig
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.kinds import (
    ColesConfig,
    CpcConfig,
    FoundConfig,
    MsdpConfig,
    One4allConfig,
    StreamConfig,
    SupervisedConfig,
)
from ray_ggsm.model.modality import Modality
from ray_ggsm.training import loop
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.loop import Trainer
from ray_ggsm.training.pairs import Pairs, head
from ray_ggsm.training.workers import ALONE, Workers, process_group
from tests.helpers.encoders import WIDTH, lookup, nominal_peak
from tests.helpers.rows import user_rows

EVENTS = EventEncoderConfig(name="unused")
SMALL = {"event_encoder": EVENTS, "newest": 9, "width": 6}
KINDS: list[StreamConfig] = [
    CpcConfig(kind="cpc", state=8, negatives=5, **SMALL),
    ColesConfig(kind="coles", state=8, least=2, most=6, **SMALL),
    One4allConfig(kind="one4all", codebooks=(2, 5), heads=2, **SMALL),
    MsdpConfig(kind="msdp", behaviours=4, heads=2, windows_days=(3, 30), **SMALL),
    FoundConfig(kind="found", state=8, **SMALL),
    SupervisedConfig(kind="supervised", state=8, hidden=6, vector=8, labels=("rich", "happy"), **SMALL),
]
NEVER_USED = {"input.nothing_D", "nothing_C"}
"""Parameters for rows without events, of which there are none."""
MODALITIES = (Modality("bill", 7), Modality("app", 5))
ROWS, BATCH, STEPS = 41, 11, 4
LABELS = pa.schema(
    [("user_id", pa.string()), ("as_of", pa.timestamp("us", "UTC")), ("happy", pa.bool_()), ("rich", pa.bool_())]
)
CPU = torch.device("cpu")
each_kind = pytest.mark.parametrize("config", KINDS, ids=[config.kind for config in KINDS])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of rows to train on."""
    (tmp_path / "rows").mkdir()
    rows, rng = user_rows(users=ROWS), np.random.default_rng(1)
    pq.write_table(rows, tmp_path / "rows" / "rows.parquet", row_group_size=9)
    labels = {name: rng.choice(np.array([True, False, None]), ROWS).tolist() for name in ("happy", "rich")}
    (tmp_path / "labels").mkdir()
    pq.write_table(
        pa.table({**rows.select(["user_id", "as_of"]).to_pydict(), **labels}, schema=LABELS),
        tmp_path / "labels" / "rows.parquet",
    )
    return tmp_path


def trainer_on(config: StreamConfig, rows: str, workers: Workers = ALONE) -> Trainer:
    training = TrainingConfig(steps=STEPS, batch_size=BATCH, centre_rows=20)
    inputs = Inputs(MODALITIES, tuple(f"f{i}" for i in range(7)), ("happy", "rich"), WIDTH, "events", lookup)
    run = Run(training, workers, 0, head(rows, 30), 80, CPU)
    learner = new_learner(config, None, inputs, run)
    if isinstance(learner.model, Found):
        learner.model.told = told
    return Trainer(learner, training, workers)


def told(texts: list[str]) -> Sentences:
    """Texts in the space of the made-up event vectors."""
    vector_BH = torch.from_numpy(lookup(pa.array(texts)).astype(np.float32))
    id_B = torch.from_numpy(hash64(texts).view(np.int64).copy())
    return Sentences(vector_BH, id_B, torch.zeros(len(texts), dtype=torch.bool))


def pairs_of(rows: str) -> Pairs:
    """The training rows, with their labels beside them."""
    return Pairs(rows, BATCH, 0, labels=str(Path(rows).parent / "labels"))


def train(trainer: Trainer, rows: str, until: int = STEPS) -> None:
    pairs, workers = pairs_of(rows), trainer.workers
    while trainer.learner.step < until:
        trainer.step(pairs.batch(trainer.learner.step, workers.rank, workers.size))


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.learner.parameters().items()}


def comparable(log: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in entry.items() if k not in ("tokens", "seconds", "utilisation")} for entry in log]


@each_kind
def test_training_moves_everything_and_saves_what_it_embeds_with(config: StreamConfig, folder: Path) -> None:
    rows = str(folder / "rows")
    trainer = trainer_on(config, rows)
    trainer.learner.prepare()
    before = state(trainer)
    train(trainer, rows)
    assert {name for name, weight in state(trainer).items() if torch.equal(weight, before[name])} <= NEVER_USED
    trainer.learner.settle()
    trainer.learner.save_encoder(str(folder / "encoder"))
    encoder = kinds.load(str(folder / "encoder"), lookup, CPU)
    found = Embedder(encoder, 10**6)(user_rows(20, seed=7))
    assert found.fits.all()
    with torch.no_grad():
        batch = StreamReader(MODALITIES, config.newest, lookup).batch(user_rows(20, seed=7))
        expected = trainer.learner.model.vectors(batch).numpy()
    np.testing.assert_allclose(found.vectors, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    description = SavedEncoder.read(str(folder / "encoder")).description
    assert (description.step, description.width, description.model) == (STEPS, found.vectors.shape[1], config)


@each_kind
def test_a_vector_is_that_of_its_row_alone(config: StreamConfig, folder: Path) -> None:
    """In a batch, alone, in another order, with other futures and labels: the same."""
    trainer = trainer_on(config, str(folder / "rows"))
    trainer.learner.prepare()
    trainer.learner.save_encoder(str(folder / "encoder"))
    embed, rows = Embedder(kinds.load(str(folder / "encoder"), lookup, CPU), 40), user_rows(20, seed=7)
    whole, order = embed(rows).vectors, np.random.default_rng(0).permutation(20)
    np.testing.assert_allclose(embed(rows.take(pa.array(order))).vectors, whole[order], atol=1e-5)
    alone = np.concatenate([embed(rows.slice(n, 1)).vectors for n in range(20)])
    np.testing.assert_allclose(alone, whole, atol=1e-5)
    np.testing.assert_array_equal(embed(rows.drop_columns("future")).vectors, whole)


@each_kind
def test_a_row_without_events_has_a_vector(config: StreamConfig, folder: Path) -> None:
    trainer = trainer_on(config, str(folder / "rows"))
    trainer.learner.prepare()
    trainer.learner.save_encoder(str(folder / "encoder"))
    rows = user_rows(3)
    for name in ("bill", "app"):
        empty = pa.array([[]] * 3, rows.schema.field(name).type)
        rows = rows.set_column(rows.column_names.index(name), name, empty)
    found = Embedder(kinds.load(str(folder / "encoder"), lookup, CPU), 40)(rows)
    assert found.fits.all()
    assert np.isfinite(found.vectors).all()


@each_kind
def test_a_restored_run_goes_on_bit_for_bit(config: StreamConfig, folder: Path) -> None:
    rows = str(folder / "rows")
    straight, first, second = (trainer_on(config, rows) for _ in range(3))
    for trainer in (straight, first):
        trainer.learner.prepare()
    train(straight, rows)
    train(first, rows, until=2)
    (folder / "checkpoint").mkdir()
    first.save(str(folder / "checkpoint"))
    torch.manual_seed(99)
    second.restore(str(folder / "checkpoint"))
    train(second, rows)
    assert comparable(second.log) == comparable(straight.log)
    for name, weight in state(straight).items():
        assert torch.equal(state(second)[name], weight), name


@each_kind
def test_damaged_weights_are_refused(config: StreamConfig, folder: Path) -> None:
    trainer = trainer_on(config, str(folder / "rows"))
    trainer.learner.prepare()
    trainer.learner.save_encoder(str(folder / "encoder"))
    file = folder / "encoder" / "modules.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"modules\.safetensors was changed since it was saved"):
        kinds.load(str(folder / "encoder"), lookup, CPU)
    values = json.loads((folder / "encoder" / "encoder.json").read_text())
    assert values["model"]["kind"] == config.kind


def together(rank: int, size: int, folder: str, configs: list[StreamConfig]) -> None:
    torch.set_num_threads(1)
    loop.peak_flops = nominal_peak
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    torch.save(
        [run(config, f"{folder}/rows", process_group()) for config in configs], os.path.join(folder, f"{rank}.pt")
    )
    dist.destroy_process_group()


def run(config: StreamConfig, rows: str, workers: Workers) -> dict[str, Any]:
    trainer = trainer_on(config, rows, workers)
    trainer.learner.prepare()
    trainer.learner.gradients(pairs_of(rows).batch(0, workers.rank, workers.size))
    gradients = {}
    for name, p in trainer.learner.parameters().items():
        grad = torch.zeros_like(p) if p.grad is None else p.grad
        gradients[name] = workers.reduce(grad / workers.size if name.startswith("heads.") else grad.clone())
        p.grad = None
    train(trainer, rows)
    return {"gradients": gradients, "state": state(trainer), "log": comparable(trainer.log)}


def test_two_workers_train_as_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get_context("forkserver").set_forkserver_preload([__name__])
    mp.start_processes(together, (2, str(folder), KINDS), nprocs=2, start_method="forkserver")
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2))
    for config, one, other in zip(KINDS, first, second, strict=True):
        alone = run(config, str(folder / "rows"), ALONE)
        for name, value in one["state"].items():
            assert torch.equal(value, other["state"][name]), name
        for name, value in one["gradients"].items():
            torch.testing.assert_close(value, alone["gradients"][name], rtol=1e-4, atol=1e-6)
        for found, expected in zip(one["log"], alone["log"], strict=True):
            for key, value in expected.items():
                assert found[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key
