"""Everything from and to an object store: config, click log, all outputs."""

from pathlib import Path

import yaml

from ray_ggsm import storage
from ray_ggsm.cli.jobs import JOBS
from ray_ggsm.cli.main import run
from ray_ggsm.config import build
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.ingest import IngestConfig, ingest
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table
from tests.helpers.clicks import changed
from tests.helpers.s3_server import BUCKET, requests


def test_quickstart_on_s3(values, capsys) -> None:
    log = values["data"]["source"]["tables"]["clicks"]["files"]
    storage.write_text(f"{BUCKET}/log/clicks.csv", Path(log).read_text())
    mine = changed(values, output=f"{BUCKET}/out", data__source__tables__clicks__files=f"{BUCKET}/log/*.csv")
    storage.write_text(f"{BUCKET}/config.yaml", yaml.safe_dump(mine))
    arguments = ["--config", f"{BUCKET}/config.yaml"]

    assert run(JOBS["quickstart"], arguments) == 0, capsys.readouterr()
    summary = storage.read_json(f"{BUCKET}/out/summary.json")
    assert summary["table"].startswith(f"{BUCKET}/out/embed-")
    assert "<html" in storage.read_text(summary["report"])[:200]
    table = open_table(summary["table"])
    assert len(table.read()) == summary["rows"]["probe"] + summary["rows"]["test"]
    assert table.verify() == []

    capsys.readouterr()
    assert run(JOBS["quickstart"], arguments) == 0
    assert "writing" not in capsys.readouterr().out


def test_requests_grow_with_users_files_and_buckets(values, s3_server: str) -> None:
    """Twice the users in twice the files and buckets: at most twice the requests, of an ingest and of rows from it."""
    header, *lines = Path(values["data"]["source"]["tables"]["clicks"]["files"]).read_text().splitlines()
    needed: dict[int, tuple[int, int]] = {}
    for n in (4, 8):
        place = f"{BUCKET}/grows-{n}"
        for k in range(n):
            mine = [line.replace(",", f"-{k},", 1) for line in lines]
            storage.write_text(f"{place}/log/{k}.csv", "\n".join([header, *mine]) + "\n")
        table = {"clicks": {"files": f"{place}/log/*.csv", "user": "uid", "time": "ts"}}
        store = {"store": f"{place}/store", "tables": table, "buckets": n, "max_bad_share": 0.1}
        requests(s3_server)
        ingest(build(IngestConfig, store, "test"))
        ingested = requests(s3_server)
        source = {"kind": "store", "location": f"{place}/store"}
        prepare(Pipeline.of(build(Experiment, changed(values, output=f"{place}/out", data__source=source), "test")))
        needed[n] = ingested, requests(s3_server)
    for few, many in zip(needed[4], needed[8], strict=True):
        assert 0 < many <= 2.1 * few, needed
