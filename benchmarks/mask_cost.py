"""What each mask recipe costs: a full training step over the plain bidirectional one, side by side, and peak memory.

    python benchmarks/mask_cost.py [--rounds 7] [--layers 4] [--lengths 64 256 1024] [--recipes ggsm constant]

Rows are equally long, so that the bidirectional step needs no mask at all: the hardest comparison. Each round takes one
step of every recipe; the ratio is the median over rounds of the recipe's time over the same round's bidirectional time.
Memory is what one step needs at its peak beyond what the process held before, over the same for bidirectional.
"""

import argparse
import ctypes
import gc
import statistics
import time
from dataclasses import replace
from pathlib import Path

from journey_model import encoder, lookup, rows
from pydantic import TypeAdapter

from ray_ggsm.masks import MaskConfig
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.cpu import use_cpu
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.contrastive import Contrastive
from ray_ggsm.training.loop import Trainer
from ray_ggsm.training.workers import ALONE

STEPS = 1000
RECIPES = {
    "bidirectional": {},
    "causal": {},
    "prefix": {},
    "hybrid_mask": {"timing": "previous_step"},
    "hybrid_mlp": {},
    "hybrid_gq": {},
    "scheduler": {},
    "scheduler window": {"shape": "window"},
    "constant": {},
    "ggsm": {"timing": "previous_step"},
    "ggsm mask": {"timing": "previous_step", "grad_site": "mask"},
    "ggsm two_pass": {"timing": "two_pass"},
    "ggsm frozen_tower": {"timing": "frozen_tower"},
}
BASE = "bidirectional"
TOKENS = 4096


def trainer(name: str, length: int, layers: int) -> Trainer:
    """A trainer in the middle of the warm-up, on rows of `length` tokens."""
    mask = TypeAdapter(MaskConfig).validate_python({"recipe": name.split()[0], **RECIPES[name]})
    bundle = encoder(mask, attention="auto", keep=length, layers=layers, steps=STEPS)
    template = bundle.encoder.template
    collator = Collator(template, bundle.tokenizer, lookup)
    other = int(collator.user_lengths(rows(1, 1, 1))[0]) - 1
    batch = rows(TOKENS // length, length - other, 8)
    n = len(batch)
    config = TrainingConfig(steps=STEPS, batch_size=n, centre_rows=2, tokens_per_micro_batch=TOKENS)
    learner = Contrastive(bundle, collator, config, ALONE, 0, head=batch)
    made = Trainer(learner, config, ALONE)
    learner.prepare()
    learner.bundle = replace(learner.bundle, step=100)
    made.batch = batch
    return made


def measure(trainers: dict[str, Trainer], rounds: int) -> dict[str, float]:
    """Recipe -> time over the bidirectional step's."""
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
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


def step_memory(made: Trainer) -> int:
    """kB that one step needs at its peak, beyond what the process holds before it (Linux)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = _status("VmRSS")
    made.step(made.batch)
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def main() -> None:
    """Print one line per recipe and length."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=(64, 256, 1024))
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    arguments = parser.parse_args()
    use_cpu(2)
    for length in arguments.lengths:
        trainers = {name: trainer(name, length, arguments.layers) for name in dict.fromkeys([BASE, *arguments.recipes])}
        times = measure(trainers, arguments.rounds)
        memory = {name: step_memory(made) for name, made in trainers.items()}
        for name, ratio in times.items():
            peak = memory[name] / memory[BASE]
            print(f"L {length:5d}  {name:18s} time {ratio:.3f}  memory {peak:.3f}", flush=True)


if __name__ == "__main__":
    main()
