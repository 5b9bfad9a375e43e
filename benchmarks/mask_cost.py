"""What each mask recipe costs: a full training step over the plain bidirectional one, side by side, and peak memory.

    python benchmarks/mask_cost.py [--rounds 7] [--layers 4] [--no-memory]

Rows are equally long, so that the bidirectional step needs no mask at all: the hardest comparison. Each round takes one
step of every recipe; the ratio is the median over rounds of the recipe's time over the same round's bidirectional time.
Peak memory is that of a process that takes two steps, over one that runs the bidirectional recipe.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from journey_model import encoder, lookup, rows
from pydantic import TypeAdapter

from ray_ggsm.masks import MaskConfig
from ray_ggsm.model.batch import Collator
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.loop import Trainer
from ray_ggsm.training.workers import ALONE

STEPS = 1000
RECIPES = {
    "bidirectional": {},
    "causal": {},
    "prefix": {},
    "hybrid_mask": {},
    "hybrid_mlp": {},
    "hybrid_gq": {},
    "scheduler": {},
    "scheduler window": {"shape": "window"},
    "constant": {},
    "ggsm": {"timing": "previous_step"},
    "ggsm two_pass": {"timing": "two_pass"},
    "ggsm frozen_tower": {"timing": "frozen_tower"},
}
BASE = "bidirectional"
TOKENS = 4096
LENGTHS = (64, 256, 1024)


def trainer(name: str, length: int, layers: int) -> Trainer:
    """A trainer in the middle of the warm-up, on rows of `length` tokens."""
    mask = TypeAdapter(MaskConfig).validate_python({"recipe": name.split()[0], **RECIPES[name]})
    trained = encoder(mask, attention="auto", keep=length, layers=layers, steps=STEPS)
    template = trained.encoder.template
    collator = Collator(template, trained.tokenizer, lookup)
    other = int(collator.user_lengths(rows(1, 1, 1))[0]) - 1
    batch = rows(TOKENS // length, length - other, 8)
    n = len(batch)
    config = TrainingConfig(steps=STEPS, batch_size=n, centre_rows=2, tokens_per_micro_batch=TOKENS)
    made = Trainer(trained, collator, config, ALONE, 0, head=batch)
    made.prepare()
    made.trained = made.trained.__class__(**{**vars(made.trained), "step": 100})
    made.batch = batch
    return made


def measure(length: int, rounds: int, layers: int) -> dict[str, float]:
    """Recipe -> time over the bidirectional step's."""
    trainers = {name: trainer(name, length, layers) for name in RECIPES}
    seconds: dict[str, list[float]] = {name: [] for name in RECIPES}
    for round_ in range(rounds + 1):
        for name, made in trainers.items():
            started = time.perf_counter()
            made.step(made.batch)
            if round_:
                seconds[name].append(time.perf_counter() - started)
    return {
        name: statistics.median(s / b for s, b in zip(taken, seconds[BASE], strict=True))
        for name, taken in seconds.items()
    }


def memory(name: str, length: int, layers: int) -> int:
    """Peak resident kB of a process that takes two steps."""
    command = [sys.executable, __file__, "--one", name, "--length", str(length), "--layers", str(layers)]
    return int(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]))


def main() -> None:
    """Print one line per recipe and length."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    if arguments.one:
        made = trainer(arguments.one, arguments.length, arguments.layers)
        for _ in range(2):
            made.step(made.batch)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    for length in LENGTHS:
        times = measure(length, arguments.rounds, arguments.layers)
        base = 0 if arguments.no_memory else memory(BASE, length, arguments.layers)
        for name, ratio in times.items():
            peak = f"  memory {memory(name, length, arguments.layers) / base:.3f}" if base else ""
            print(f"L {length:5d}  {name:18s} time {ratio:.3f}{peak}", flush=True)


if __name__ == "__main__":
    main()
