"""prepare -> train -> embed -> evaluate on a click log, with tiny random models and real Ray."""

import json
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import DeltaTable

from ray_ggsm.on_ray.quickstart import quickstart
from ray_ggsm.stages import Pipeline

LABELS = {"buys", "busy"}
TABLES, PROBES = ("encoder", "untrained", "handcrafted", "joined"), ("linear", "lightgbm")


def keys(files) -> list[tuple]:
    table = ds.dataset(files, format="parquet").to_table(columns=["user_id", "as_of"])
    return sorted(zip(*table.to_pydict().values(), strict=True))


def rows_of(location: str, *names: str) -> list[str]:
    return [str(file) for name in names for file in Path(location, "rows", name).glob("*.parquet")]


def test_summary_has_what_the_user_was_promised(finished) -> None:
    summary = json.loads(Path(finished.output, "summary.json").read_text())
    assert set(summary) == {"rows", "label_rates", "auc", "seconds", "table", "report", "scored"}
    assert set(summary["rows"]) == set(summary["label_rates"]) == {"pretrain", "probe", "test"}
    assert all(set(rates) == LABELS for rates in summary["label_rates"].values())
    assert set(summary["auc"]) == set(TABLES)
    for kinds in summary["auc"].values():
        assert set(kinds) == set(PROBES)
        for values in kinds.values():
            assert set(values) == LABELS | {"mean"}
            assert values["mean"] == np.mean([values[label] for label in LABELS])
    assert set(summary["seconds"]) == {"prepare", "train", "embed", "evaluate"}
    assert summary["table"] == Pipeline.of(finished).embed.path("table")
    assert "<html" in Path(summary["report"]).read_text()[:200]
    prepared = Pipeline.of(finished).prepare.location
    assert summary["rows"] == {name: len(keys(rows_of(prepared, name))) for name in summary["rows"]}


def test_plain_readers_find_every_row_once(finished) -> None:
    for place in (Pipeline.of(finished), Pipeline.of(finished).untrained):
        files = DeltaTable(place.embed.path("table")).file_uris()
        assert keys(files) == keys(rows_of(place.prepare.location, "probe", "test"))
        vectors = np.array(pq.read_table(files, columns=["embedding"])["embedding"].to_pylist())
        assert vectors.shape[1] == 24
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_training_moved_the_encoder(finished) -> None:
    log = json.loads(Path(Pipeline.of(finished).train.path("log.json")).read_text())
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5, 6]
    files = [Path(Pipeline.of(finished).train.path(d, "adapter_model.safetensors")) for d in ("encoder", "untrained")]
    assert files[0].read_bytes() != files[1].read_bytes()


def test_event_texts_are_encoded_once_and_found_again(finished) -> None:
    """What training encoded, embedding finds; the counts are those of the rows."""
    place = Pipeline.of(finished)
    trained, embedded = place.train.require(), place.embed.require()
    rows = pq.read_table(place.prepare.rows("pretrain"))
    columns = [*finished.data.modalities, "future"]
    events = [event for name in columns for row in rows[name].to_pylist() for event in row or []]
    parts = [part["text"] for event in events for part in event.get("parts") or []]
    texts = [event["text"] for event in events if event["text"] is not None] + parts
    assert parts
    assert len(texts) > len(parts)
    assert trained.events == len(texts)
    assert trained.event_texts_encoded == len(set(texts))
    assert trained.events_found_in_store == 0
    assert 0 < embedded.events_found_in_store <= embedded.events
    again = Pipeline.of(finished).embed_untrained.require()
    assert again.events_found_in_store == again.events == embedded.events
    assert again.event_texts_encoded == 0


def test_nothing_that_is_saved_can_run_code(finished) -> None:
    """No pickle, whatever its name: only text, safetensors, Parquet and TensorBoard's event files (protobuf)."""
    allowed = {".json", ".yaml", ".safetensors", ".parquet", ".html", ".jinja", ".txt", ".md"}
    files = [f for f in Path(finished.output).rglob("*") if f.is_file() and not f.name.startswith(".")]
    events = {f for f in files if f.parent.name == "tensorboard" and f.name.startswith("events.out.tfevents.")}
    assert len(events) == 1
    assert {f.suffix for f in files if f not in events} <= allowed


def test_a_second_run_reuses_everything(finished, capsys) -> None:
    before = stamps(finished.output)
    summary = Path(finished.output, "summary.json").read_text()
    capsys.readouterr()
    quickstart(Pipeline.of(finished))
    assert stamps(finished.output) == before
    assert Path(finished.output, "summary.json").read_text() == summary
    assert "writing" not in capsys.readouterr().out


def stamps(output: str) -> dict[Path, int]:
    """Modification times of all files but the summary, which is printed and written by every run."""
    return {f: f.stat().st_mtime_ns for f in Path(output).rglob("*") if f.is_file() and f.name != "summary.json"}
