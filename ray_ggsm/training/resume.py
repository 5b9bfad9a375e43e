"""Explains why an unfinished run in the same output does not go on."""

from ray_ggsm import storage


def unlike_runs(directory: str, pattern: str, settings: dict[str, object]) -> list[str]:
    """Record a run's settings in `<directory>/run.json`; return a sentence per unfinished run with other settings.

    Args:
        directory: the run's directory.
        pattern: glob of the directories of all runs, for example `<output>/train-*`.
        settings: plain values of the settings that results depend on.
    """
    sentences = []
    for file in storage.glob(storage.join(pattern, "run.json")):
        other = file.rsplit("/", 1)[0]
        is_this = other.rsplit("/", 1)[-1] == directory.rsplit("/", 1)[-1]
        if not is_this and not storage.exists(storage.join(other, "stage.json")):
            cause = _changes(_flat(storage.read_json(file)), _flat(settings)) or "data snapshot"
            sentences.append(
                f"train: the unfinished run in {other} does not go on, because of another {cause}; this run starts anew"
            )
    storage.write_json(storage.join(directory, "run.json"), settings)
    return sentences


def _changes(before: dict[str, object], now: dict[str, object]) -> str:
    """The settings that changed, the first three of them by name; empty if none did."""
    changed = [f"{key} ({before.get(key)} -> {now.get(key)})" for key in now if before.get(key) != now[key]]
    return ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")


def _flat(value: object, path: str = "") -> dict[str, object]:
    """Nested settings as key.path -> value."""
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for key, child in value.items() for k, v in _flat(child, f"{path}.{key}" if path else key).items()}
