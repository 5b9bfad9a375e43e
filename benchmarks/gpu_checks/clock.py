"""Time and memory on a device."""

import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of one run, until the device is done."""
    wait(device)
    started = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - started


def best_seconds(run: Callable[[], object], device: torch.device, rounds: int) -> float:
    """The shortest of `rounds` runs, after one that does not count."""
    run()
    return min(seconds(run, device) for _ in range(rounds))


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Bytes that a run needs at its peak beyond what was allocated before; on the CPU, bytes of kept graphs only."""
    if device.type != "cuda":
        with _graph_bytes() as peak:
            run()
        return peak()
    wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    wait(device)
    return torch.cuda.max_memory_allocated(device) - before


class _Kept:
    """A tensor that a graph keeps for its backward pass; goes away with the graph."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@contextmanager
def _graph_bytes() -> Iterator[Callable[[], int]]:
    """The most bytes that graphs kept at once; a tensor that two operations keep counts twice."""
    now, peak = 0, 0

    def forget(size: int) -> None:
        nonlocal now
        now -= size

    def keep(tensor: Tensor) -> _Kept:
        nonlocal now, peak
        kept, size = _Kept(tensor), tensor.numel() * tensor.element_size()
        now += size
        peak = max(peak, now)
        weakref.finalize(kept, forget, size)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
        yield lambda: peak
