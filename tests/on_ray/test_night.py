"""A refresh from events: tonight's rows are those that training would have had at this cutoff."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ray_ggsm import storage
from ray_ggsm.config import InputError, build
from ray_ggsm.experiment import Experiment
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.on_ray.ingest import IngestConfig, ingest
from ray_ggsm.on_ray.night import Night
from ray_ggsm.on_ray.refresh import RefreshConfig, preview, refresh
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table

DAY = dt.date(2024, 3, 14)


@pytest.fixture
def store(finished: Experiment, tmp_path: Path) -> str:
    """The click log in three buckets."""
    place = str(tmp_path / "store")
    tables = {n: t.model_dump(mode="json") for n, t in finished.data.source.tables.items()}  # type: ignore[union-attr]
    ingest(build(IngestConfig, {"store": place, "tables": tables, "buckets": 3, "max_bad_share": 0.1}, "test"))
    return place


@pytest.fixture
def night(finished: Experiment, beside: Callable, tmp_path: Path, store: str) -> Callable[..., RefreshConfig]:
    """Builds the config of a night."""
    place = Pipeline.of(finished)
    copied = beside(place.train.directory, "event_vectors")

    def config(day: dt.date | None = DAY, **events: object) -> RefreshConfig:
        found = {
            "source": {"kind": "store", "location": store},
            "minimum_events": {"table": "clicks", "count": 1},
            "max_bad_share": 0.1,
            "as_of": day and day.isoformat(),
            **events,
        }
        values = {
            "events": found,
            "encoder": f"{copied}/{place.train.directory}/encoder",
            "event_vectors": f"{copied}/event_vectors",
            "table": str(tmp_path / "users"),
            "publishing": {"gates": {"max_similarity": 1.0, "min_previous_share": 0.5, "max_mean_distance": 2.0}},
        }
        return build(RefreshConfig, values, "test")

    return config


def rows_of(config: RefreshConfig) -> Night:
    assert config.events is not None
    return Night.of(config.events, SavedEncoder.find(config.encoder), config.max_text_length, config.table)


def expected_rows(finished: Experiment) -> pa.Table:
    """What prepare made at this cutoff, of all splits."""
    files = sorted(Path(Pipeline.of(finished).prepare.location, "rows").glob("*/*.parquet"))
    tables = [pq.read_table(file) for file in files]
    columns = [c for c in tables[0].column_names if c != "future"]
    rows = pa.concat_tables([table.select(columns) for table in tables])
    at = pa.scalar(dt.datetime(2024, 3, 14, tzinfo=dt.UTC), rows.schema.field("as_of").type)
    return rows.filter(pc.equal(rows["as_of"], at)).sort_by("user_id").combine_chunks()


def test_rows_are_those_of_training_at_this_cutoff(finished: Experiment, night: Callable) -> None:
    place = rows_of(night())
    made = pa.concat_tables([pq.read_table(file) for file in place.make(night().ray)]).sort_by("user_id")
    expected = expected_rows(finished)
    assert len(expected) > 10
    of_these = made.filter(pc.is_in(made["user_id"], expected["user_id"])).combine_chunks()
    assert of_these.equals(expected)
    assert len(made) > len(expected), "train users at a test cutoff, too"


def test_nights_follow_each_other(finished: Experiment, night: Callable, tmp_path: Path, capsys) -> None:
    assert "as of 2024-03-14, manifest 1" in preview(night())
    assert refresh(night()) == 0
    first = open_table(night().table).read()
    assert set(pc.unique(first["as_of"]).to_pylist()) == {dt.datetime(2024, 3, 14, tzinfo=dt.UTC)}
    assert refresh(night()) == 0, "nothing changed"
    assert refresh(night(dt.date(2024, 3, 15))) == 1
    assert not [file for file in storage.list_files(f"{tmp_path}/users/staging") if "/rows/" in file]
    assert "manifest 1" in (open_table(night().table).metadata().input or pytest.fail("no input")).rows
    told = capsys.readouterr().out
    assert f"made {len(first)} rows as of 2024-03-14" in told.replace(",", "")

    rows = tmp_path / "rows.parquet"
    pq.write_table(expected_rows(finished), rows)
    given = night().model_copy(update={"events": None, "rows": str(rows), "table": str(tmp_path / "given")})
    assert refresh(given) == 0
    same = open_table(given.table).read().sort_by("user_id")
    of_these = first.filter(pc.is_in(first["user_id"], same["user_id"])).sort_by("user_id")
    for mine, theirs in zip(of_these["embedding"].to_pylist(), same["embedding"].to_pylist(), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)


def test_what_does_not_fit_is_told_before_anything_starts(night: Callable) -> None:
    with pytest.raises(InputError, match=r"events\.source.*'other'|events\.snapshots\.minimum_events.*'other'"):
        rows_of(night(minimum_events={"table": "other", "count": 1}))
    source = {"kind": "files", "tables": {"clicks": {"files": "no/such.csv", "user": "uid", "time": "ts"}}}
    with pytest.raises(InputError, match=r"events\.source\.tables\.clicks\.files: no file matches"):
        rows_of(night(source=source))
    with pytest.raises(InputError, match="give one of them"):
        build(RefreshConfig, {"encoder": "e", "table": "t"}, "test")
    storage.remove(f"{SavedEncoder.find(night().encoder).location}/rows.json")
    with pytest.raises(InputError, match=r"has no rows\.json, which says how rows are made"):
        rows_of(night())
