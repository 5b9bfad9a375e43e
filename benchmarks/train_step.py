"""Training steps against three others, in one process, on the same Journey pairs, backbone, layers, LoRA and dtype.

    pip install sentence-transformers
    python benchmarks/train_step.py [--pairs 128] [--rounds 5] [--no-memory]

(a) sentence-transformers' CachedMultipleNegativesRankingLoss on the rendered texts of the same users, cut so that both
    sides have the same mean number of tokens per pair;
(b) a straightforward loop: every sequence padded to 512, all hidden states kept, logits over the whole vocabulary;
(c) the bare forward and backward pass of the same tokens: batches built in advance, no loop, no log, no optimiser.

Each round takes one step of each. Printed are the medians over rounds of the ratio of pairs per second. Memory is the
peak of a process that takes two steps with 2,048 pairs, over that of one with 64 pairs, with the same micro-batches.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from journey_model import CONFIG, journey_learner, write_plain
from peft import LoraConfig, get_peft_model

from ray_ggsm.config import load
from ray_ggsm.experiment import Experiment
from ray_ggsm.masks.fixed import BidirectionalConfig
from ray_ggsm.model.cpu import use_cpu
from ray_ggsm.model.events import history_events
from ray_ggsm.model.planning import batches_by_length
from ray_ggsm.model.source import load_model
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.stages import Pipeline
from ray_ggsm.training.answers import draw_answers, render
from ray_ggsm.training.contrastive import Contrastive
from ray_ggsm.training.loop import Trainer
from ray_ggsm.training.loss import Objective, gathered, info_nce
from ray_ggsm.training.pairs import head
from ray_ggsm.training.part import user_ids
from ray_ggsm.training.workers import ALONE

PADDED = 512


def bare(learner: Contrastive, rows: pa.Table) -> Callable[[], None]:
    """(c): forward and backward over batches that were built before."""
    encoder, c = learner.encoder, learner.config
    batches, orders = {}, {}
    for tower, sequences in (
        ("user", learner.collator.user_sequences(rows)),
        ("answer", draw_answers(rows, learner.collator, c.answer, 0).sequences),
    ):
        plan = batches_by_length(sequences.length_B, c.tokens_per_micro_batch)
        batches[tower] = [sequences.batch(index) for index in plan]
        orders[tower] = torch.from_numpy(np.argsort(np.concatenate(plan)))
    ids = user_ids(rows)

    def step() -> None:
        encoder.train()
        encoder.zero_grad(set_to_none=True)
        states = {
            tower: torch.cat([encoder(b, learner.recipe.future_weight(b.layout.tokens, 0)) for b in parts])[
                orders[tower]
            ]
            for tower, parts in batches.items()
        }
        sides = gathered(states["user"], states["answer"], ids, centre=True)
        info_nce(sides, c.objective).backward()

    return step


def straightforward(learner: Contrastive, experiment: Experiment, rows: pa.Table) -> Callable[[], None]:
    """(b): padded to 512, all hidden states, full logits, four pairs at a time to fit in memory."""
    model = load_model(experiment.model.backbone, torch.bfloat16)
    vocabulary = model.get_input_embeddings().weight
    lora = get_peft_model(model, LoraConfig(r=experiment.model.lora.r, target_modules="all-linear"))
    collator, answer = learner.collator, learner.config.answer

    def encode(batch) -> torch.Tensor:
        with torch.no_grad():
            inputs = learner.encoder.inputs(batch).bfloat16()
        B, L, D = inputs.shape
        padded = torch.zeros(B, PADDED, D, dtype=torch.bfloat16)
        padded[:, :L] = inputs
        valid = torch.zeros(B, PADDED, dtype=torch.long)
        valid[:, :L] = batch.layout.tokens.valid_BL
        with torch.autocast("cpu", torch.bfloat16):
            out = lora(inputs_embeds=padded, attention_mask=valid, output_hidden_states=True, use_cache=False)
            logits = out.hidden_states[-1] @ vocabulary.T
        state = out.hidden_states[-1] * valid[:, :, None]
        return state.sum(dim=1).float() / valid.sum(dim=1, keepdim=True) + 0 * logits[:, 0, :1].float()

    def step() -> None:
        lora.zero_grad(set_to_none=True)
        for start in range(0, len(rows), 4):
            part = rows.slice(start, 4)
            users = encode(collator.users(part))
            answers = encode(draw_answers(part, collator, answer, 0).sequences.batch(np.arange(len(part))))
            sides = gathered(users, answers, user_ids(part), centre=False)
            info_nce(sides, Objective(temperature=0.07, margin=0.1)).backward()

    return step


def sentence_transformers(experiment: Experiment, learner: Contrastive, rows: pa.Table, tokens: tuple[int, int]):
    """(a): one step of the cached loss; `tokens` are the users' and the answers' lengths."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    with tempfile.TemporaryDirectory() as directory:
        width = write_plain(experiment.model.backbone, directory).hidden_size
        transformer = Transformer(directory, model_kwargs={"dtype": torch.bfloat16})
    r = experiment.model.lora.r
    transformer.auto_model = get_peft_model(transformer.auto_model, LoraConfig(r=r, target_modules="all-linear"))
    model = SentenceTransformer(modules=[transformer, Pooling(width, "mean")], device="cpu")
    template = learner.encoder.template
    names = [m.name for m in template.modalities]
    tokenizer = transformer.tokenizer
    histories = render(history_events(rows, template.modalities), names)
    futures = [" ".join(e["text"] for e in row or []) or "nothing" for row in rows["future"].to_pylist()]
    sides = []
    for texts, length in zip((histories, futures), tokens, strict=True):
        ids = tokenizer([t * 8 for t in texts], add_special_tokens=False, truncation=True, max_length=length)
        sides.append(model.tokenize(tokenizer.batch_decode(ids["input_ids"])))
    real = [int(side["attention_mask"].sum()) for side in sides]
    losses = {size: CachedMultipleNegativesRankingLoss(model, mini_batch_size=size) for size in (16, 32, 64)}

    def step(size: int) -> None:
        model.train()
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            losses[size]([dict(side) for side in sides], torch.zeros(len(rows))).backward()

    return step, real


def timed(step: Callable[[], object]) -> float:
    """Wall time of one step, seconds."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def peak(pairs: int) -> int:
    """Peak resident kB of a process that takes two steps."""
    command = [sys.executable, __file__, "--one", "--pairs", str(pairs)]
    return int(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]))


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    use_cpu(2)
    experiment = load(Experiment, CONFIG)
    prepare(Pipeline.of(experiment))
    rows = head(Pipeline.of(experiment).prepare.rows("pretrain"), arguments.pairs)
    mask = BidirectionalConfig(recipe="bidirectional")
    learner = journey_learner(experiment, rows, mask, graph_tokens=4096 if arguments.one else 10**6)
    trainer = Trainer(learner, learner.config, ALONE)
    if arguments.one:
        for _ in range(2):
            trainer.step(rows)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    users = learner.collator.user_lengths(rows)
    answers = draw_answers(rows, learner.collator, learner.config.answer, 0).sequences.length_B
    theirs, real = sentence_transformers(
        experiment, learner, rows, (round(float(users.mean())), round(float(answers.mean())))
    )
    tried = {size: timed(partial(theirs, size)) for size in (16, 32, 64)}
    size = min(tried, key=tried.__getitem__)
    steps = {
        "ours": partial(trainer.step, rows),
        "(a) sentence-transformers": partial(theirs, size),
        "(b) straightforward loop": straightforward(learner, experiment, rows),
        "(c) bare forward and backward": bare(learner, rows),
    }
    print(f"{len(rows)} pairs; tokens: ours {users.sum() + answers.sum()}, sentence-transformers {sum(real)}")
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(arguments.rounds + 1):
        for name, step in steps.items():
            if name.startswith("(b)") and round_ > 2:
                continue  # slow, and far away
            taken = timed(step)
            if round_:
                seconds[name].append(taken)
    for name, taken in seconds.items():
        ratio = statistics.median(b / a for a, b in zip(seconds["ours"], taken, strict=False))
        rate = len(rows) / statistics.median(taken)
        print(f"{name:32s} {rate:7.1f} pairs/s; ours is {ratio:.2f} x as fast", flush=True)
    if not arguments.no_memory:
        print(f"peak memory, 2,048 pairs over 64 pairs: {peak(2048) / peak(64):.2f}")


if __name__ == "__main__":
    main()
