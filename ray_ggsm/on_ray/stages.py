"""Running a stage: announce it, time it, record it as finished."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray_ggsm import storage
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


def interrupted(stage: Stage, settings: dict[str, Any]) -> list[str]:
    """Note this run's settings in `run.json`; returns a sentence for each unfinished run of other settings beside it.

    Such a run cannot go on: the sentence says which settings differ from this one's.
    """
    parent, own = stage.location.rsplit("/", 1)
    sentences = []
    for file in storage.glob(storage.join(parent, f"{stage.name}-*", "run.json")):
        directory = file.rsplit("/", 1)[0]
        if directory.endswith(own) or storage.exists(storage.join(directory, "stage.json")):
            continue
        before, now = _flat(storage.read_json(file)), _flat(settings)
        changed = [f"{key} ({before.get(key)} -> {now.get(key)})" for key in now if before.get(key) != now[key]]
        what = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        sentences.append(
            f"{stage.name}: the unfinished run in {directory} does not go on, because of another"
            f" {what or 'data snapshot'}; this run starts anew"
        )
    storage.write_json(stage.path("run.json"), settings)
    return sentences


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested settings as key.path -> value."""
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for key, child in value.items() for k, v in _flat(child, f"{path}.{key}" if path else key).items()}
