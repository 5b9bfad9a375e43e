"""Sets up a process that computes on CPU."""

import ctypes
import os

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
_PRIMITIVES = 64
"""Matrix products whose code oneDNN keeps."""


def use_cpu(threads: int) -> torch.device:
    """Configure torch's threads and memory for CPU, and return the device.

    By default glibc returns every freed tensor above 32 MB to the system, and the next layer has to get its pages
    again. Here the process keeps them, which makes a step with long rows a third faster; other C libraries keep their
    defaults. By default oneDNN also keeps the code of the newest 1,024 matrix products, one per shape of a batch, which
    takes a gigabyte; 64 are as fast. The environment variable `ONEDNN_PRIMITIVE_CACHE_CAPACITY` overrides that.
    Measurements: docs/benchmarks.md.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_PRIMITIVES))
    torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 2**30)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    return torch.device("cpu")
