"""configs/refresh.yaml, night.yaml and attach_definition.yaml, on what configs/own_events/quickstart.yaml makes."""

from pathlib import Path

import pytest
import yaml

from ray_ggsm.cli.jobs import JOBS
from ray_ggsm.cli.main import run
from ray_ggsm.data.definition import read_file
from ray_ggsm.tables import open_table

ROOT = Path(__file__).parents[2]
REFRESH = ROOT / "configs" / "refresh.yaml"
NIGHT = ROOT / "configs" / "night.yaml"
ATTACH = ROOT / "configs" / "attach_definition.yaml"


def test_the_shipped_refresh(
    tiny_decoder: str, tiny_event_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Only the models and the directory are others; the table lies beside the rows and the encoder."""
    monkeypatch.chdir(ROOT)
    models = [f"model.backbone={{name: {tiny_decoder}}}", f"model.event_encoder.name={tiny_event_encoder}"]
    settings = [f"output={tmp_path}", *models, "model.dtype=float32"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    example = ["--config", str(ROOT / "configs/own_events/quickstart.yaml"), *arguments]
    assert run(JOBS["quickstart"], example) == 2, "ten lines are not enough for the evaluation"
    for job in ("prepare", "train", "embed"):
        assert run(JOBS[job], example) == 0

    shipped = yaml.safe_load(REFRESH.read_text())
    places = [
        f"{key}={shipped[key].replace('outputs/own_events', str(tmp_path))}" for key in ("rows", "encoder", "table")
    ]
    refresh = ["--config", str(REFRESH), *(part for place in places for part in ("--set", place))]
    assert run(JOBS["refresh"], [*refresh, "--dry-run"]) == 0
    assert "is not there yet" in capsys.readouterr().out
    assert run(JOBS["refresh"], refresh) == 0
    table = open_table(str(tmp_path / "users"))
    assert (table.version, len(table.read())) == (0, 1)
    assert run(JOBS["refresh"], refresh) == 0
    assert "nothing changed; no new version" in capsys.readouterr().out

    shipped = yaml.safe_load(NIGHT.read_text())
    places = [f"{key}={shipped[key].replace('outputs/own_events', str(tmp_path))}" for key in ("encoder", "table")]
    night = ["--config", str(NIGHT), "--as-of", "2024-03-16", *(part for place in places for part in ("--set", place))]
    assert run(JOBS["refresh"], [*night, "--dry-run"]) == 0
    assert "events as of 2024-03-16; " in capsys.readouterr().out
    assert run(JOBS["refresh"], night) == 0
    users = open_table(str(tmp_path / "nights")).read()["user_id"].to_pylist()
    assert users == ["ann", "bob", "dan"], "those with an event from 2 to 15 March in Berlin"

    [encoder] = tmp_path.glob("train-*/encoder")
    [prepared] = tmp_path.glob("prepare-*")
    trained = read_file(str(encoder / "rows.json"))
    assert trained == read_file(str(prepared / "rows.json"))
    metadata = table.metadata()
    assert (metadata.timezone, metadata.row_definition) == ("Europe/Berlin", trained.digest)
    experiment = tmp_path / "experiment.yaml"
    experiment.write_text(f"base: {ROOT}/configs/own_events/quickstart.yaml\n")
    attach = ["--config", str(ATTACH), "--set", f"encoder={encoder}", "--set", f"experiment={experiment}"]
    assert run(JOBS["attach-definition"], attach) == 2, "it has one already, whose ages follow Berlin"
    assert f"has the row definition {trained.digest} already" in capsys.readouterr().err
    (encoder / "rows.json").unlink()  # as in earlier versions
    assert run(JOBS["attach-definition"], attach) == 0
    attached = read_file(str(encoder / "rows.json"))
    assert attached == trained.model_copy(update={"age_timezone": "UTC"})
    assert run(JOBS["refresh"], refresh) == 2
    assert f"made by definition {trained.digest}, but the encoder was trained on rows of {attached.digest}" in (
        capsys.readouterr().err
    )
    experiment.write_text(f"base: {ROOT}/configs/own_events/quickstart.yaml\ndata: {{features: []}}\n")
    assert run(JOBS["attach-definition"], attach) == 2
    assert "its rows have other features than" in capsys.readouterr().err
