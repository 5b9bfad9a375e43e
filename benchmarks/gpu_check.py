"""What a machine with a GPU has to show: correctness, memory and speed of everything that CUDA computes differently.

    python benchmarks/gpu_check.py [--model 500M] [--only PART ...] [--json FILE]
    python benchmarks/gpu_check.py --device cpu     the same with tiny sizes, to test the checks themselves

Needs torch, transformers, peft, pyarrow and pydantic; no Ray, no data, no network: models are random ones, written to a
temporary directory. sentence-transformers is compared with where it is installed. Takes less than eight minutes; checks
that have not begun after --seconds are left out, and the table says so. Exit code 1: a check failed. The Markdown table
at the end is for docs/benchmarks.md.
"""

import argparse
import datetime as dt
import platform
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # works without an installation

import torch
import transformers
from gpu_checks import attention, embedding, gradients, memory, out_of_memory, padding, recipes, training
from gpu_checks.made_up import Decoder, write_decoder
from gpu_checks.report import Machine, Row, as_json, run_part, table
from gpu_checks.setting import SMALL, Setting, Sizes

PARTS = {
    "recipes": recipes.checks,
    "padding": padding.checks,
    "out_of_memory": out_of_memory.checks,
    "memory": memory.checks,
    "embedding": embedding.checks,
    "attention": attention.checks,
    "gradients": gradients.checks,
    "training": training.checks,
}
"""In the order in which they run: what compiles little first."""
MODELS = {
    "135M": Decoder(width=576, inner=1536, layers=30, heads=9, key_heads=3),
    "500M": Decoder(width=896, inner=4864, layers=24, heads=14, key_heads=2),
}
"""The layers of SmolLM2-135M and Qwen2.5-0.5B, without their vocabularies."""
TINY = Decoder(width=32, inner=48, layers=2, heads=2, key_heads=1)
ON_GPU = {
    "attention_tokens": 300, "most_events": 90, "cut_tokens": 700, "users": 2048, "speed_events": 190,
    "tokens_per_batch": 65_536, "pairs": 256, "tokens_per_micro_batch": 8192, "matrix": 8192, "rounds": 3,
    "dtype": "bfloat16",
}  # fmt: skip
ON_CPU = {
    "attention_tokens": 37, "most_events": 9, "cut_tokens": 120, "users": 24, "speed_events": 8,
    "tokens_per_batch": 512, "pairs": 6, "tokens_per_micro_batch": 128, "matrix": 256, "rounds": 1, "dtype": "float32",
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the checks; returns the exit code."""
    options = _options(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU that torch can use; `--device cpu` tries the checks themselves", file=sys.stderr)
        return 2
    started = time.monotonic()
    device = _prepare(options.device)
    machine = _machine(device)
    print(f"{machine.device}, torch {machine.torch}, transformers {machine.transformers}", flush=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as directory:
        setting = _setting(device, options.model, Path(directory))
        for part in options.only or PARTS:
            for row in run_part(part, partial(PARTS[part], setting), ends_at=started + options.seconds):
                print(f"{row.word:8s} {part:13s} {row.seconds:5.1f} s  {row.claim}: {row.result}", flush=True)
                rows.append(row)
    print(f"\n{table(rows, machine)}\n")
    counts = ", ".join(f"{sum(r.word == word for r in rows)} {word}" for word in ("ok", "FAILED", "not made"))
    print(f"{counts}; {time.monotonic() - started:.0f} s")
    if options.json:
        Path(options.json).write_text(as_json(rows, machine))
    return int(any(row.passed is False for row in rows))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", choices=list(MODELS), default="500M", help="random decoder for speed and memory")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=420, help="no check begins after so many")
    parser.add_argument("--json", metavar="FILE", help="write everything that was measured")
    return parser.parse_args(arguments)


def _prepare(name: str) -> torch.device:
    """Full float32 products; FlexAttention that falls back to its slow form is an error on a GPU, not a warning."""
    torch.set_float32_matmul_precision("highest")
    action = "error" if name == "cuda" else "ignore"
    warnings.filterwarnings(action, message="flex_attention called without torch.compile")
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks for it
    transformers.utils.logging.disable_progress_bar()
    if name == "cpu":
        torch.set_num_threads(1)
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _setting(device: torch.device, model: str, directory: Path) -> Setting:
    large = MODELS[model] if device.type == "cuda" else TINY
    sizes = Sizes(large=large, **(ON_GPU if device.type == "cuda" else ON_CPU))
    setting = Setting(device, sizes, directory / "small", directory / "large")
    write_decoder(SMALL, setting.small)
    write_decoder(large, setting.large)
    return setting


def _machine(device: torch.device) -> Machine:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
    return Machine(dt.date.today().isoformat(), name, torch.__version__, transformers.__version__)


if __name__ == "__main__":
    sys.exit(main())
