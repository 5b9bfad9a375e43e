"""Text encoding against sentence-transformers and against the machine's matrix products, in one process.

    pip install sentence-transformers
    python benchmarks/encode.py [--texts 512] [--layers 4] [--rounds 3]

The texts are the rendered histories of Journey's probe rows, cut at several lengths; model (SmolLM2), dtype (bfloat16),
causal attention and mean pooling are the same on both sides, and so are the vectors. sentence-transformers runs with
each batch size, and its best counts. The matrix products are those of the model's layers, attention included, at the
shapes of one of our batches; the rate counts the real tokens' floating-point operations only.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from journey_model import CONFIG, encoder, write_plain
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from ray_ggsm import storage
from ray_ggsm.config import load
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders.language_model import LanguageModel
from ray_ggsm.experiment import Experiment
from ray_ggsm.masks.fixed import CausalConfig
from ray_ggsm.model.cpu import use_cpu
from ray_ggsm.model.encoder import UserEncoder
from ray_ggsm.model.event_encoder import EventEncoder
from ray_ggsm.model.events import history_events
from ray_ggsm.model.source import resolve
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.stages import Pipeline
from ray_ggsm.training.answers import render
from ray_ggsm.training.flops import forward_flops

LENGTHS = (32, 128, 256, 512)
BATCH_SIZES = (4, 8, 16, 32, 64)
TOKENS_PER_BATCH = 2048


def histories(n: int) -> list[str]:
    """Rendered histories of Journey's probe rows."""
    experiment = load(Experiment, CONFIG)
    prepare(Pipeline.of(experiment))
    file = storage.list_files(Pipeline.of(experiment).prepare.rows("probe"), ".parquet")[0]
    rows = pq.read_table(file).slice(0, n)
    modalities = experiment.modalities
    return render(history_events(rows, modalities), [m.name for m in modalities])


def events(rounds: int, n: int = 4096) -> None:
    """Print the event encoder against sentence-transformers, on distinct event texts."""
    experiment = load(Experiment, CONFIG)
    file = storage.list_files(Pipeline.of(experiment).prepare.rows("probe"), ".parquet")[0]
    texts = pc.unique(pc.list_flatten(pq.read_table(file)["bill"].combine_chunks()).field("text")).to_pylist()[:n]
    config = experiment.model.event_encoder
    ours = EventEncoder(config, torch.device("cpu"))
    theirs = SentenceTransformer(resolve(config.name), device="cpu", model_kwargs={"dtype": torch.bfloat16})
    theirs.max_seq_length = config.max_tokens
    mine = best(lambda: ours.encode(texts), rounds)
    their = min(best(lambda size=size: theirs.encode(texts, batch_size=size), rounds) for size in (32, 128, 512))
    a, b = ours.encode(texts).astype(np.float32), theirs.encode(texts, normalize_embeddings=True)
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1)
    print(
        f"event texts ({len(texts)}): {len(texts) / mine:,.0f} texts/s; {their / mine:.2f} x sentence-transformers;"
        f" cosine of both vectors {np.median(cosines):.4f} (median), {cosines.min():.4f} (least)",
        flush=True,
    )


def best(run: Callable[[], object], rounds: int) -> float:
    """Shortest wall time, seconds."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return min(taken)


@torch.inference_mode()
def product_rate(length: int, encoder: UserEncoder, rounds: int) -> float:
    """FLOP/s of the layers' matrix products alone, at the shapes of one of our batches."""
    config = encoder.backbone.config
    B = max(1, TOKENS_PER_BATCH // length)
    H, d = config.num_attention_heads, config.hidden_size
    kv = config.num_key_value_heads * (d // H)
    shapes = [(d, d), (d, kv), (d, kv), (d, d), *[(d, config.intermediate_size)] * 2, (config.intermediate_size, d)]
    linears = [torch.nn.Linear(i, o, bias=False, dtype=torch.bfloat16) for i, o in shapes]
    inputs = [torch.randn(B * length, i, dtype=torch.bfloat16) for i, _ in shapes]
    q = torch.randn(B, H, length, d // H, dtype=torch.bfloat16)
    p = torch.randn(B, H, length, length, dtype=torch.bfloat16)

    def products() -> None:
        for _ in range(config.num_hidden_layers):
            for linear, x in zip(linears, inputs, strict=True):
                linear(x)
            q @ q.transpose(-1, -2)
            p @ q

    return forward_flops(encoder, np.full(B, length)) / best(products, 5 * rounds)


def main() -> None:
    """Print one block per length."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    use_cpu(2)
    texts = histories(arguments.texts)
    bundle = encoder(
        CausalConfig(recipe="causal"), attention="auto", keep=1, layers=arguments.layers, steps=1, max_text_tokens=512
    )
    model_config = bundle.encoder.config.backbone
    with tempfile.TemporaryDirectory() as directory:
        plain = write_plain(model_config, directory)
        transformer = Transformer(directory, model_kwargs={"dtype": torch.bfloat16})
        theirs = SentenceTransformer(modules=[transformer, Pooling(plain.hidden_size, "mean")], device="cpu")
    ours = Embedder(LanguageModel(bundle, lambda events: np.zeros((0, 384), np.float32)), TOKENS_PER_BATCH)
    events(arguments.rounds)
    eos = bundle.tokenizer.eos_token
    for length in LENGTHS:
        ids = bundle.tokenizer(texts, add_special_tokens=False, truncation=True, max_length=length - 1)["input_ids"]
        cut = bundle.tokenizer.batch_decode(ids)
        with_end = [text + eos for text in cut]
        counts = ours.encoder.collator.text_sequences(cut).length_B
        work = forward_flops(bundle.encoder, counts)
        rate = product_rate(length, bundle.encoder, arguments.rounds)
        mine = best(partial(ours.texts, cut), arguments.rounds)
        encode = partial(theirs.encode, with_end, show_progress_bar=False)
        tried = {size: best(partial(encode, batch_size=size), 1) for size in BATCH_SIZES}
        size = min(tried, key=tried.__getitem__)
        their = min(tried[size], best(partial(encode, batch_size=size), arguments.rounds))
        a, b = ours.texts(cut).vectors, theirs.encode(with_end, batch_size=size, normalize_embeddings=True)
        cosines = (a * b).sum(axis=1)
        print(
            f"length {length} (mean {counts.mean():.0f}, {len(cut)} texts): {counts.sum() / mine:,.0f} tokens/s,"
            f" {len(cut) / mine:,.0f} users/s; {their / mine:.2f} x sentence-transformers (batch"
            f" {size}); {work / mine / rate:.2f} of the matrix products' {rate / 1e12:.2f} TFLOP/s;"
            f" cosine of both vectors {np.median(cosines):.4f} (median), {cosines.min():.4f} (least)",
            flush=True,
        )


if __name__ == "__main__":
    main()
