r"""CoLES and CPC as pytorch-lifestream has them, on streams that `beside_ptls.py` wrote.

It runs in an environment of its own:

    python3.11 -m venv ENVIRONMENT
    ENVIRONMENT/bin/pip install "numpy<2" "torch<3" "pyarrow<19" "pandas<2.3" "scikit-learn<1.7" "transformers<5" \
        "setuptools<81" "pytorch-lightning<2.6" torchmetrics omegaconf hydra-core pymonad dask duckdb safetensors
    ENVIRONMENT/bin/pip install --no-deps pytorch-lifestream==0.7.0

Event vectors enter as a custom embedding, modalities and text fields as categories, ages, amounts and number fields as
numbers; a linear projection has the width of our stream. Two rows of a user are one class, as in ours.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from ptls.data_load.utils import collate_feature_dict
from ptls.frames.coles import ColesDataset, CoLESModule
from ptls.frames.coles.split_strategy import SampleSlices
from ptls.frames.cpc import CpcDataset, CpcModule
from ptls.nn import RnnSeqEncoder, TrxEncoder
from ptls.nn.trx_encoder.encoders import IdentityEncoder
from safetensors.torch import load_file, save_file

WIDTH = 128
NO_EVENT = 1
EVERY_EVENT = 1 << 20


class Streams(torch.utils.data.Dataset):
    """Feature dictionaries of rows."""

    def __init__(self, file: Path) -> None:
        self.of = load_file(file)
        self.end_B = self.of["count_B"].cumsum(0)
        last = torch.tensor([len(self.of["content_X"])])
        self.bound_E1 = torch.cat([self.of["first_E"], last])

    def __len__(self) -> int:
        return len(self.end_B)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        of, count = self.of, int(self.of["count_B"][row])
        event_V = of["event_V"][int(self.end_B[row]) - count : int(self.end_B[row])]
        if not count:  # the library has no rows without events: one of nothing stands for them
            event_V = torch.zeros(NO_EVENT, dtype=torch.int64)
        first_V, content_V = self.bound_E1[event_V], self.bound_E1[event_V + 1] - self.bound_E1[event_V]
        start_V = content_V.cumsum(0) - content_V
        at_X = torch.arange(int(content_V.sum())) + (first_V - start_V).repeat_interleave(content_V)
        vector_VH = torch.nn.functional.embedding_bag(
            of["content_X"][at_X], of["vector_PH"], start_V, mode="sum", per_sample_weights=of["weight_X"][at_X]
        )
        features = {
            "event_time": torch.arange(len(event_V)),
            "modality": of["modality_E"][event_V],
            "vector": vector_VH,
        }
        features |= {f"field_{k}": of["field_EK"][event_V, k] for k in range(of["field_EK"].shape[1])}
        features |= {f"number_{n}": of["number_EN"][event_V, n] for n in range(of["number_EN"].shape[1])}
        if not count:
            features = {key: value * 0 for key, value in features.items()}
        return features


def encoder(streams: Streams, state: int) -> RnnSeqEncoder:
    """The library's encoder of these streams."""
    of = streams.of
    fields = {f"field_{k}": {"in": int(of["field_EK"].max()) + 1, "out": 16} for k in range(of["field_EK"].shape[1])}
    events = TrxEncoder(
        embeddings={"modality": {"in": max(int(of["modality_E"].max()) + 1, 3), "out": 16}, **fields},
        numeric_values={f"number_{n}": "identity" for n in range(of["number_EN"].shape[1])},
        custom_embeddings={"vector": IdentityEncoder(of["vector_PH"].shape[1])},
        linear_projection_size=WIDTH,
    )
    return RnnSeqEncoder(events, hidden_size=state, type="gru")


def coles_batch(batch: list, user_of: dict[int, int]) -> tuple:
    """The library's batch of slices, with users as classes."""
    slices = [features for row in batch for features in row]
    users = [user_of[int(features["row"][0])] for features in slices]
    return collate_feature_dict(slices), torch.tensor(users)


class Numbered(torch.utils.data.Dataset):
    """Streams whose events name their row."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams

    def __len__(self) -> int:
        return len(self.streams)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        features = self.streams[row]
        return {**features, "row": torch.full_like(features["event_time"], row)}


def main() -> None:
    """Train, and write the vectors of the probe rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kind", choices=("coles", "cpc"), required=True)
    for name in ("seed", "steps", "batch", "state", "slices", "least", "most"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--rate", type=float)
    o = parser.parse_args()
    pl.seed_everything(o.seed)
    train, probe = (Streams(o.directory / f"{name}.safetensors") for name in ("train", "probe"))
    steps_of = {
        "seq_encoder": encoder(train, o.state),
        "optimizer_partial": partial(torch.optim.Adam, lr=o.rate),
        "lr_scheduler_partial": partial(torch.optim.lr_scheduler.StepLR, step_size=10**9, gamma=1.0),
    }
    if o.kind == "coles":
        data = ColesDataset(Numbered(train), SampleSlices(split_count=o.slices, cnt_min=o.least, cnt_max=o.most))
        users = dict(enumerate(torch.unique(train.of["user_B"], return_inverse=True)[1].tolist()))
        collate, module = partial(coles_batch, user_of=users), CoLESModule(**steps_of)
    else:
        data = CpcDataset(train, min_len=EVERY_EVENT, max_len=EVERY_EVENT)
        collate, module = CpcDataset.collate_fn, CpcModule(**steps_of)
    batches = torch.utils.data.DataLoader(data, o.batch, shuffle=True, drop_last=True, collate_fn=collate)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_steps=o.steps, max_epochs=-1, accelerator="cpu", **quiet)
    started = time.perf_counter()
    trainer.fit(module, batches)
    seconds = time.perf_counter() - started
    module.eval()
    network = module.seq_encoder
    network.is_reduce_sequence = True
    with torch.no_grad():
        parts = [
            network(collate_feature_dict([probe[row] for row in range(first, min(first + 256, len(probe)))]))
            for first in range(0, len(probe), 256)
        ]
    save_file({"vector_BW": torch.cat(parts).contiguous()}, o.directory / "vectors.safetensors")
    print(f"{seconds:.0f}")


if __name__ == "__main__":
    main()
