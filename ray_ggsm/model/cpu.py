"""Set-up of a process that computes on CPU."""

import ctypes
import os

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_PRIMITIVES = 64


def use_cpu(threads: int) -> torch.device:
    """The CPU, with `threads` threads and memory that stays with the process once it has been touched.

    By default glibc hands every freed tensor above 32 MB back to the system, and the next layer pays for its pages
    again; keeping them makes a step with long rows a third faster (docs/benchmarks.md). Other C libraries are left
    as they are. oneDNN keeps the code of its newest 1,024 matrix products, which differ with every batch's shape; that
    is a gigabyte, and 64 are as fast (docs/benchmarks.md). `ONEDNN_PRIMITIVE_CACHE_CAPACITY` overrides it.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_PRIMITIVES))
    torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 2**30)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    return torch.device("cpu")
