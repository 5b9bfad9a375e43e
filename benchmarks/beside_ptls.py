"""Our CoLES and CPC beside pytorch-lifestream's, on the same streams, rows, batches and steps, over seeds.

    python benchmarks/beside_ptls.py --config configs/journey/coles.yaml --theirs ENVIRONMENT/bin/python

The library needs numpy 1 and cannot be installed beside ours: ENVIRONMENT is one of its own (`ptls_theirs.py` says how
to make it), and gets the streams as files. Its modules, losses, samplers and defaults are used as they are. Scores are
those of `tune.py`: linear probe, mean AUC over the labels, held-out folds of the probe rows.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from features_network import EVERY_ROW
from safetensors.torch import load_file, save_file
from tune import KINDS, fold_scores, tuned

from ray_ggsm import storage
from ray_ggsm.config import load
from ray_ggsm.encoders.stream import StreamReader
from ray_ggsm.experiment import Experiment
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.event_vectors import find
from ray_ggsm.model.kinds import ColesConfig, CpcConfig, StreamConfig
from ray_ggsm.numerics import signed_log
from ray_ggsm.stages import Pipeline
from ray_ggsm.training.pairs import head

THEIRS = Path(__file__).with_name("ptls_theirs.py")
SPLITS = "train", "probe"
CATEGORIES = 4096
"""Values of a text field that the library tells apart, by hash; Journey's fields have a handful."""


def write_streams(place: Pipeline, directory: Path) -> pa.Table:
    """Write the streams of the training and the probe rows; returns the latter's rows."""
    e = place.experiment
    assert isinstance(e.model, StreamConfig)
    described = SavedEncoder.read(place.train.encoder).description
    store = find(storage.join(place.event_vectors, described.event_encoder_digest), e.ray.cache_directory).open()
    reader = StreamReader(e.modalities, e.model.newest, store)
    tables = [head(place.prepare.rows(split), EVERY_ROW) for split in (e.data.train_split, "probe")]
    batches = [reader.batch(rows) for rows in tables]
    number_EN = batches[0].contents.number_EN
    mean_N = torch.from_numpy(np.nan_to_num(np.nanmean(number_EN.numpy(), axis=0)))
    deviation_N = torch.from_numpy(np.nan_to_num(np.nanstd(number_EN.numpy(), axis=0))).clamp(min=1e-6)
    for split, batch in zip(SPLITS, batches, strict=True):
        of = batch.contents
        is_event_BL = batch.event_BL < len(batch.age_E)
        amount_E = torch.from_numpy(signed_log(batch.amount_E.numpy()))
        numbers_EN = [
            torch.log1p(batch.age_E.clamp(min=0))[:, None],
            amount_E[:, None],
            (of.number_EN - mean_N) / deviation_N,
        ]
        save_file(
            {
                "vector_PH": of.vector_PH,
                "content_X": of.content_X,
                "weight_X": of.weight_X,
                "first_E": of.first_E,
                "modality_E": batch.modality_E + 1,
                "field_EK": torch.where(of.bucket_EK < 0, 0, of.bucket_EK % CATEGORIES + 1)[:, ::2].contiguous(),
                "number_EN": torch.cat(numbers_EN, dim=1).float().nan_to_num(),
                "event_V": batch.event_BL[is_event_BL],
                "count_B": batch.count_B,
                "user_B": batch.user_B,
            },
            directory / f"{split}.safetensors",
        )
    return tables[1]


def settings_of(e: Experiment) -> list[str]:
    """What the library is told, as options."""
    model = e.model
    values: dict[str, object] = {
        "kind": model.kind,
        "steps": e.training.total_steps,
        "batch": e.training.batch_size,
        "rate": e.training.optimizer.learning_rate,
    }
    if isinstance(model, ColesConfig):
        values |= {"state": model.state, "slices": model.slices, "least": model.least, "most": model.most}
    elif isinstance(model, CpcConfig):
        values |= {"state": model.state}
    return [f"--{key}={value}" for key, value in values.items()]


def main() -> None:
    """Print one line per seed and implementation."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, help="of an experiment of kind coles or cpc")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE")
    parser.add_argument("--theirs", required=True, help="Python of an environment with pytorch-lifestream")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    kind = load(Experiment, options.config, options.set).model.kind
    if kind not in ("coles", "cpc"):
        raise SystemExit(f"--config {options.config}: is of kind {kind}; take one of kind coles or cpc")
    with tempfile.TemporaryDirectory() as name:
        directory, probe = Path(name), None
        for seed in range(options.seeds):
            settings = [*options.set, f"seed={seed}"]
            print(f"ours, seed {seed} | {tuned(options.config, settings, KINDS[:1])}", flush=True)
            place = Pipeline.of(load(Experiment, options.config, settings))
            if probe is None:
                probe = write_streams(place, directory)
            command = [
                options.theirs,
                "-W",
                "ignore",
                str(THEIRS),
                name,
                f"--seed={seed}",
                *settings_of(place.experiment),
            ]
            seconds = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1]
            vector_BW = load_file(directory / "vectors.safetensors")["vector_BW"].numpy()
            table = probe.select(["user_id", "as_of"]).append_column("embedding", pa.array(list(vector_BW)))
            print(
                f"pytorch-lifestream, seed {seed} | {fold_scores(place, table, KINDS[:1])} | training {seconds} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
