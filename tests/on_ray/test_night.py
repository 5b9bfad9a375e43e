"""A refresh from events: tonight's rows are those that training would have had at this cutoff."""

import datetime as dt
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from ray_ggsm import storage
from ray_ggsm.building.build import Build
from ray_ggsm.building.layout import CARRIED, CONTENT, is_due
from ray_ggsm.config import InputError, build
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders.kinds import load
from ray_ggsm.experiment import Experiment
from ray_ggsm.hashing import key_id, pseudonym
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.event_encoder import EventEncoder
from ray_ggsm.model.event_vectors import VectorStore
from ray_ggsm.on_ray.ingest import IngestConfig, ingest
from ray_ggsm.on_ray.night import Night
from ray_ggsm.on_ray.refresh import RefreshConfig, preview, refresh
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table
from ray_ggsm.tables.missing import missing
from ray_ggsm.tables.publish import NO_TABLE

DAY = dt.date(2024, 3, 14)
FIRST = dt.datetime.combine(DAY, dt.time(), dt.UTC)
GATES = {"max_similarity": 1.0, "min_previous_share": 0.5, "max_mean_distance": 2.0, "max_departed_share": 1.0}


@pytest.fixture
def store(finished: Experiment, tmp_path: Path) -> str:
    """The click log in three buckets."""
    return ingested(finished, str(tmp_path / "store"))


def ingested(finished: Experiment, place: str, **changes: object) -> str:
    """A store of the click log at a place."""
    tables = {n: t.model_dump(mode="json") for n, t in finished.data.source.tables.items()}  # type: ignore[union-attr]
    values = {"store": place, "tables": tables, "buckets": 3, "max_bad_share": 0.1, **changes}
    ingest(build(IngestConfig, values, "test"))
    return place


@pytest.fixture
def night(finished: Experiment, beside: Callable, tmp_path: Path, store: str) -> Callable[..., RefreshConfig]:
    """Builds the config of a night."""
    place = Pipeline.of(finished)
    copied = beside(place.train.directory, "event_vectors")

    def config(day: dt.date | None = DAY, carry: object = "none", **events: object) -> RefreshConfig:
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
            "publishing": {"gates": GATES},
            "carry": carry,
        }
        return build(RefreshConfig, values, "test")

    return config


def rows_of(config: RefreshConfig) -> Night:
    assert config.events is not None
    return Night.of(config.events, SavedEncoder.find(config.encoder), config.max_text_length, config.table, config.ray)


def made_rows(config: RefreshConfig) -> pa.Table:
    """All rows of a night in which nobody keeps a vector."""
    encoder, night = SavedEncoder.find(config.encoder), rows_of(config)
    description = encoder.description
    build_ = Build(
        config.embedding, config.publishing.files, config.max_text_length, encoder.location, encoder.digest,
        description.modality_names, len(description.feature_names), "UTC", VectorStore((), ""), "run", config.table,
        f"{config.table}/staging", 6, True,
    )  # fmt: skip
    layout = night.lay_out(build_, {}, NO_TABLE)
    files = sorted({part.rows.file for part in layout.parts})
    assert [part.fresh for part in layout.parts] == [part.rows.rows for part in layout.parts]
    return pa.concat_tables([pq.read_table(file) for file in files])


def expected_rows(finished: Experiment) -> pa.Table:
    """What prepare made at this cutoff, of all splits."""
    files = sorted(Path(Pipeline.of(finished).prepare.location, "rows").glob("*/*.parquet"))
    tables = [pq.read_table(file) for file in files]
    columns = [c for c in tables[0].column_names if c != "future"]
    rows = pa.concat_tables([table.select(columns) for table in tables])
    at = pa.scalar(dt.datetime(2024, 3, 14, tzinfo=dt.UTC), rows.schema.field("as_of").type)
    return rows.filter(pc.equal(rows["as_of"], at)).sort_by("user_id").combine_chunks()


def test_rows_are_those_of_training_at_this_cutoff(finished: Experiment, night: Callable) -> None:
    made = made_rows(night()).sort_by("user_id").drop_columns([CONTENT, CARRIED])
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
    assert open_table(night().table).buckets % 3 == 0, "the buckets of a shard are its own"
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


def by_user(table: str, version: int | None = None) -> dict[str, tuple[dt.datetime, list[float]]]:
    rows = open_table(table).read(version=version).to_pylist()
    return {row["user_id"]: (row["as_of"], row["embedding"]) for row in rows}


def exact_vectors(config: RefreshConfig) -> dict[str, list[float]]:
    """User -> the vector of a night in which nobody keeps one, encoded here, without a table."""
    encoder = SavedEncoder.find(config.encoder)
    texts = EventEncoder(encoder.description.model.event_encoder, torch.device("cpu"))
    loaded = load(encoder.location, lambda names: texts.encode(names.to_pylist()), torch.device("cpu"))
    rows = made_rows(config)
    vectors = Embedder(loaded, 512)(rows).vectors.tolist()
    return dict(zip(rows["user_id"].to_pylist(), vectors, strict=True))


def turn(user: str, vector_as_of: dt.datetime, day: dt.date, max_age_days: int = 3) -> bool:
    """Whether the age of the vector alone makes it a user's turn."""
    moments = (vector_as_of, dt.datetime.combine(day, dt.time(), dt.UTC))
    columns = (pa.chunked_array([pa.array([m], pa.timestamp("us", "UTC"))]) for m in moments)
    return bool(is_due(pa.chunked_array([[user]]), *columns, "UTC", max_age_days)[0])


def test_users_without_news_keep_their_vector(night: Callable, store: str, tmp_path: Path, capsys) -> None:
    """Every vector is the one that its own moment gives, none is too old, and nobody is lost."""
    carry = {"when": "events", "max_age_days": 3}
    exact, surprised = {}, []
    for days in range(5):
        day = DAY + dt.timedelta(days=days)
        if days == 3:  # the store learns something old of users who would have kept their vector: a feature counts it
            last = by_user(night().table)
            surprised = [user for user, (as_of, _) in last.items() if not turn(user, as_of, day)]
            late = "".join(f"{user},2024-03-02,return,page 1,item 2,\n" for user in surprised[::2])
            (tmp_path / "late.csv").write_text(f"uid,ts,kind,page,item,price\n{late}")
            tables = {"clicks": {"files": f"{tmp_path}/late.csv", "user": "uid", "time": "ts"}}
            ingest(build(IngestConfig, {"store": store, "tables": tables, "buckets": 3}, "test"))
        exact[dt.datetime.combine(day, dt.time(), dt.UTC)] = exact_vectors(night(day))
        refresh(night(day, carry=carry))
        found, metadata = by_user(night().table), open_table(night().table).metadata()
        assert found.keys() == exact[dt.datetime.combine(day, dt.time(), dt.UTC)].keys()
        for name, (as_of, vector) in found.items():
            assert (day - as_of.date()).days < 3
            assert vector == pytest.approx(exact[as_of][name], abs=1e-5)
        assert metadata.counts is not None
        encoded = sum(as_of.date() == day for as_of, _ in found.values())
        assert metadata.counts.encoded == encoded
        assert sum(metadata.ages.values()) == len(found)
        if days:
            assert 0 < encoded < len(found)
        if days == 3:
            assert len(surprised) > 5
            assert {found[user][0].date() for user in surprised[::2]} == {day}


@pytest.mark.parametrize("made_by", ["refresh", "ingest"])
def test_nights_with_pseudonyms(finished: Experiment, night: Callable, tmp_path: Path, made_by: str) -> None:
    """A table that names its users by pseudonyms has the vectors of one that names them, and carries the same ones."""
    (tmp_path / "key").write_bytes(b"k" * 32)
    events: dict[str, object] = {"key_file": str(tmp_path / "key")}
    if made_by == "ingest":
        hashed = ingested(finished, str(tmp_path / "hashed"), pseudonyms=True, **events)
        with pytest.raises(InputError, match=r"events\.key_file.*names users by pseudonyms already"):
            refresh(night(source={"kind": "store", "location": hashed}, **events))
        events = {"source": {"kind": "store", "location": hashed}}
        with pytest.raises(InputError, match=r"users\.key_file: the rows of \S+ were made with nothing, but"):
            refresh(night(**events))
    carry = {"when": "events", "max_age_days": 7}
    encoder = shutil.copytree(SavedEncoder.find(night().encoder).location, tmp_path / "encoder")
    definition = json.loads((encoder / "rows.json").read_text())
    (encoder / "rows.json").write_text(json.dumps(definition | {"user_ids": "keyed_hash", "key_id": key_id(b"k" * 32)}))
    for days in range(2):
        day = DAY + dt.timedelta(days=days)
        named = night(day, carry).model_copy(update={"table": str(tmp_path / "named")})
        refresh(named)
        refresh(night(day, carry, **events).model_copy(update={"encoder": str(encoder)}))
    metadata = open_table(night().table).metadata()
    assert metadata.counts is not None
    found, expected = by_user(night().table), by_user(named.table)
    assert 0 < metadata.counts.encoded < len(found)
    assert found.keys() == {pseudonym(user, b"k" * 32) for user in expected}
    for user, (as_of, vector) in expected.items():
        name = pseudonym(user, b"k" * 32)
        if found[name][0] == as_of:
            assert vector == pytest.approx(found[name][1], abs=1e-5)
        else:  # a user's turn depends on the name
            assert turn(name, FIRST, day, 7) != turn(user, FIRST, day, 7)


def test_who_has_too_few_events_is_told(finished: Experiment, night: Callable) -> None:
    """Counted in the click log itself, over the 30 days before the night."""
    source = finished.data.source
    log = Path(source.tables["clicks"].files).read_text().splitlines()[2:]  # type: ignore[union-attr]
    days = [(line.split(",")[0], dt.date.fromisoformat(line.split(",")[1][:10])) for line in log]
    events = Counter(user for user, day in days if DAY - dt.timedelta(days=30) <= day < DAY)
    few = sorted(user for user, count in events.items() if count < 10)
    assert 5 < len(few) < len(events) - 5
    config = night(minimum_events={"table": "clicks", "count": 10})
    refresh(config)
    table = open_table(config.table)
    assert sorted(table.read()["user_id"].to_pylist()) == sorted(events.keys() - set(few))
    assert table.metadata().without_vector == {"too_few_events": len(few)}
    found = missing(table)
    assert sorted(found["user_id"].to_pylist()) == few
    assert found["reason"].unique().to_pylist() == ["too_few_events"]


def test_what_only_features_see_counts_after_a_file_was_replaced(night: Callable, store: str, tmp_path: Path) -> None:
    """No modality takes returns: some users' are corrected, others' are of the day between and were known."""

    def take_in(name: str, lines: list[str]) -> None:
        (tmp_path / name).write_text("\n".join(["uid,ts,kind,page,item,price", *lines, ""]))
        tables = {"clicks": {"files": f"{tmp_path}/{name}", "user": "uid", "time": "ts"}}
        ingest(build(IngestConfig, {"store": store, "tables": tables, "buckets": 3}, "test"))

    corrected, later = ([f"u{k}" for k in range(start, start + 20)] for start in (0, 20))
    carry = {"when": "events", "max_age_days": 30}
    take_in("known.csv", [f"{user},{DAY}T10:00:00,return,page 1,item 2,1000" for user in later])
    take_in("returns.csv", [f"{user},2024-03-02T10:00:00,return,page 1,item 2,3" for user in corrected])
    refresh(night(DAY, carry))
    take_in("returns.csv", [f"{user},2024-03-02T10:00:00,return,page 1,item 2,3000" for user in corrected])
    day = DAY + dt.timedelta(days=1)
    refresh(night(day, carry))
    found, exact = by_user(night().table), exact_vectors(night(day))
    of_tonight = {user for user, (as_of, _) in found.items() if as_of.date() == day}
    assert of_tonight >= found.keys() & {*corrected, *later}
    assert {as_of for user, (as_of, _) in found.items() if user not in of_tonight} == {FIRST}
    for user in of_tonight:
        assert found[user][1] == pytest.approx(exact[user], abs=1e-5)
