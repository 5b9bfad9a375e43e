"""Says why an unfinished run beside a new one does not go on."""

from typing import Any

from ray_ggsm import storage


def unlike_runs(directory: str, pattern: str, settings: dict[str, Any]) -> list[str]:
    """Record this run's settings in `<directory>/run.json`; return a sentence per unfinished run of other settings.

    Args:
        directory: of this run.
        pattern: of the directories of all runs, for example `<output>/train-*`.
        settings: JSON values of the settings that results depend on.
    """
    sentences = []
    for file in storage.glob(storage.join(pattern, "run.json")):
        other = file.rsplit("/", 1)[0]
        if other.rsplit("/", 1)[-1] == directory.rsplit("/", 1)[-1] or storage.exists(
            storage.join(other, "stage.json")
        ):
            continue
        before, now = _flat(storage.read_json(file)), _flat(settings)
        changed = [f"{key} ({before.get(key)} -> {now.get(key)})" for key in now if before.get(key) != now[key]]
        what = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        sentences.append(
            f"train: the unfinished run in {other} does not go on, because of another {what or 'data snapshot'}; this "
            "run starts anew"
        )
    storage.write_json(storage.join(directory, "run.json"), settings)
    return sentences


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested settings as key.path -> value."""
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for key, child in value.items() for k, v in _flat(child, f"{path}.{key}" if path else key).items()}
