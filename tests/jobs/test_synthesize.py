"""The synthesize job is killed at any moment: what was answered is never asked again, and nothing is lost."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from tests.helpers.chat_server import chat_server, good
from tests.helpers.clicks import write_config
from tests.helpers.waiting import Process, wait_until
from tests.jobs.test_interrupts import in_session

ROWS, IN_FLIGHT, KILLED_AFTER = 48, 4, (20, 70)
"""Rows with questions; requests at a time; and the requests after which the driver and all of its processes die."""


def test_kills(start: Callable[..., Process], place: Path) -> None:
    with chat_server(lambda messages, before: good(messages)) as server:
        client = {
            "kind": "openai", "base_url": server.url, "model": "scripted", "user_data_leave_the_cluster": True,
            "in_flight": IN_FLIGHT,
        }  # fmt: skip
        config = {
            "experiment": "config.yaml", "output": "questions", "rows": ROWS, "rows_per_part": 8, "client": client,
            "pairs": {"per_user": 2, "calibration": 10, "scenarios": 5}, "ray": {"embed_workers": 2},
        }  # fmt: skip
        file = write_config(place / "questions.yaml", config)
        for requests in KILLED_AFTER:
            process = start("synthesize", "--config", file)
            process.wait_until(lambda n=requests: len(server.requests) >= n)
            os.killpg(process.pid, signal.SIGKILL)
            for left in in_session(process.pid):
                left.kill()
            process.finish()
            wait_until(lambda p=process: not in_session(p.pid))
        start("synthesize", "--config", file).succeed()
    twice = [times for times in server.answered.values() if times > 1]
    assert len(twice) <= IN_FLIGHT * len(KILLED_AFTER), "only what was under way is asked again"
    assert max(server.answered.values()) <= 1 + len(KILLED_AFTER)
    result = json.loads((place / "questions" / "questions.json").read_text())
    rows = [row for part in Path(result["rows"]).glob("*.parquet") for row in pq.read_table(part).to_pylist()]
    assert len(rows) == len({(row["user_id"], row["as_of"], row["scenario"]) for row in rows}) == 2 * ROWS
    assert sum(server.answered.values()) == 1 + 3 * ROWS + sum(times - 1 for times in twice)
