"""Running a stage: announce it, time it, record it as finished."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray_ggsm.experiment import Stage


@contextmanager
def timed(stage: Stage) -> Iterator[dict[str, Any]]:
    """Give a dict for results; when the block ends without an error, record it with its wall time as `seconds`."""
    print(f"{stage.name}: writing {stage.location}", flush=True)
    started = time.monotonic()
    results: dict[str, Any] = {}
    yield results
    results["seconds"] = round(time.monotonic() - started, 1)
    stage.finish(**results)
    print(f"{stage.name}: done in {results['seconds']:.0f} s", flush=True)
