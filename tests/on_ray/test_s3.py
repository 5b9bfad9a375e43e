"""Everything from and to an object store: config, click log, all outputs."""

from pathlib import Path

import yaml

from ray_ggsm import storage
from ray_ggsm.cli.jobs import JOBS
from ray_ggsm.cli.main import run
from ray_ggsm.tables import open_table
from tests.helpers.clicks import changed
from tests.helpers.s3_server import BUCKET


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
