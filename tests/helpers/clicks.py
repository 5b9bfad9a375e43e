"""A small click log with users who differ, and a complete config over it: the tests' own "bring your own events"."""

import copy
import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

USERS, DAYS = 60, 110
FIRST_DAY = np.datetime64("2024-01-01T00:00:00")
BAD_LINE = ["u7", "not a time", "view", "home", "item 1", ""]


def write_click_log(file: Path) -> None:
    """One event a line, and one line that no time can be read from."""
    rng = np.random.default_rng(0)
    rows = [BAD_LINE]
    for user in range(USERS):
        busy, buyer = 0.15 + 0.6 * rng.random(), rng.random() ** 2
        for day in np.flatnonzero(rng.random(DAYS) < busy):
            buys = rng.random() < 0.4 * buyer
            time = FIRST_DAY + np.timedelta64(int(day) * 86_400 + int(rng.integers(86_400)), "s")
            item = f"item {rng.integers(23)}"
            price = f"{rng.uniform(1, 90):.2f}" if buys else ""
            rows.append([f"u{user}", str(time), "buy" if buys else "view", f"page {rng.integers(5)}", item, price])
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([["uid", "ts", "kind", "page", "item", "price"], *rows])


def click_config(log: str, output: str, decoder: str, event_encoder: str) -> dict[str, Any]:
    """The values of a config that prepares, trains, embeds and evaluates the log in seconds."""
    return {
        "name": "clicks",
        "output": output,
        "seed": 0,
        "data": {
            "source": {"kind": "files", "tables": {"clicks": {"files": log, "user": "uid", "time": "ts"}}},
            "modalities": {
                "view": {"table": "clicks", "where": "kind = 'view'", "text": "{page} {item}", "keep": 20},
                "buy": {
                    "table": "clicks",
                    "where": "kind = 'buy'",
                    "fields": {"page": {"text": "{page}"}, "cents": {"number": "price * 100"}},
                    "parts": {"texts": "[item]", "weights": "[price]"},
                    "amount": "price",
                    "keep": 10,
                },
            },
            "features": [
                {"name": "events", "table": "clicks", "sql": "count(*)", "windows": [7, 30]},
                {"name": "spend", "table": "clicks", "sql": "sum(price)"},
            ],
            "snapshots": {
                "cutoffs": {"first": "2024-02-01", "every_days": 14, "count": 5},
                "history_days": 30,
                "future_days": 14,
                "minimum_events": {"table": "clicks", "count": 1},
            },
            "users": {"salt": "clicks-", "test_percent": 40},
            "splits": {
                "pretrain": {"role": "train", "users": "train", "cutoffs": [0, 1]},
                "probe": {"role": "fit", "users": "train", "cutoffs": [2, 3]},
                "test": {"role": "score", "users": "test", "cutoffs": [4]},
            },
            "labels": {
                "buys": {"group": "conversion", "table": "clicks", "sql": "count(*) filter (kind = 'buy') > 0"},
                "busy": {"group": "activity", "table": "clicks", "sql": "count(*)", "at_least_quantile": 0.6},
            },
            "shards": 2,
            "max_bad_share": 0.02,
        },
        "model": {
            "backbone": {"name": decoder, "layers": 2},
            "event_encoder": {"name": event_encoder, "dtype": "float32", "max_tokens": 16},
            "lora": {"r": 2, "alpha": 2},
            "tabular_tokens": 2,
            "dtype": "float32",
        },
        "mask": {"recipe": "ggsm", "warmup_share": 0.5},
        "training": {
            "steps": 6,
            "batch_size": 16,
            "checkpoint_every": 2,
            "centre_rows": 32,
            "tokens_per_micro_batch": 512,
            "optimizer": {"learning_rate": 1e-3},
        },
        "embedding": {"rows_per_batch": 32, "rows_per_chunk": 32, "tokens_per_batch": 512},
        "publishing": {"gates": {"max_dead_letter_share": 0.02}},
        "evaluation": {"folds": 3, "linear": {"strengths": [0.01, 0.1]}, "lightgbm": {"max_rounds": 20}},
        "ray": {"local_object_store_gb": 0.3, "cpus_per_train_worker": 1, "embed_workers": 1},
    }


def changed(values: Mapping[str, Any], **paths: Any) -> dict[str, Any]:
    """A copy with some values replaced; `training__steps=3` means `training.steps: 3`."""
    result = copy.deepcopy(dict(values))
    for path, value in paths.items():
        *keys, last = path.split("__")
        place = result
        for key in keys:
            place = place.setdefault(key, {})
        place[last] = value
    return result


def write_config(file: Path, values: Mapping[str, Any]) -> str:
    """The values as a YAML file; returns its path."""
    file.write_text(yaml.safe_dump(dict(values), sort_keys=False))
    return str(file)
