"""Writes the training log: JSON and Parquet with one entry per step, and TensorBoard scalars."""

import tempfile

import pyarrow as pa
import pyarrow.parquet as pq
from tensorboardX import SummaryWriter

from ray_ggsm import storage
from ray_ggsm.training.checkpoint import Log


def write_log(log: Log, location: str) -> None:
    """Write `log.json`, `log.parquet` and `tensorboard/` below `location`, which replace older ones."""
    storage.write_json(storage.join(location, "log.json"), log)
    columns = sorted({key for entry in log for key in entry})
    table = pa.table({key: pa.array([entry.get(key) for entry in log], pa.float64()) for key in columns})
    fs, path = storage.arrow_filesystem(storage.join(location, "log.parquet"))
    pq.write_table(table, path, filesystem=fs)
    with tempfile.TemporaryDirectory() as directory:
        with SummaryWriter(directory, write_to_disk=True) as writer:
            for entry in log:
                for key in sorted(entry.keys() - {"step"}):
                    writer.add_scalar(_tag(key), entry[key], int(entry["step"]))
        storage.remove(storage.join(location, "tensorboard"))
        storage.upload(directory, storage.join(location, "tensorboard"))


def _tag(key: str) -> str:
    """The metric's name with its group in front: loss, mask, held_out, grad_norm, run."""
    if "/" in key:
        return key
    groups = {"w_": "mask", "alpha": "mask", "held_out_": "held_out", "grad_norm": "grad_norm"}
    if key in ("tokens", "seconds", "utilisation", "learning_rate", "temperature"):
        return f"run/{key}"
    return f"{next((group for start, group in groups.items() if key.startswith(start)), 'loss')}/{key}"
