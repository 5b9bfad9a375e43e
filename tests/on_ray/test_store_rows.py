"""Rows from a store are those from the files themselves, whatever its buckets, days and formats."""

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_ggsm.config import InputError, build
from ray_ggsm.data.prepare import fit, write_shard, write_summary
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray import prepare as on_ray_prepare
from ray_ggsm.on_ray.ingest import IngestConfig, ingest
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.stages import Pipeline
from tests.helpers.clicks import changed
from tests.helpers.data import data_config

SPLITS = ("pretrain", "probe", "test")


@pytest.fixture
def source_values(values: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The shared config with a template that shows the time, a vocabulary, and a static table."""
    facts = tmp_path / "facts.jsonl"
    facts.write_text("".join(f'{{"uid": "u{k}", "age": {20 + k}}}\n' for k in range(0, 60, 2)) + "no json\n")
    tables = {**values["data"]["source"]["tables"], "facts": {"files": str(facts), "user": "uid"}}
    modalities = {**values["data"]["modalities"]}
    modalities["view"] = {**modalities["view"], "text": "{page} {item} {ts}"}
    features = [
        *values["data"]["features"],
        {"name": "pages", "table": "clicks", "sql": "count(*)", "per": "page", "top": 3},
        {"name": "age", "table": "facts", "sql": "max(age)", "empty": -1.0},
    ]
    return changed(
        values, output=str(tmp_path / "out"), data__source__tables=tables, data__modalities=modalities,
        data__features=features, data__max_bad_share=0.1,
    )  # fmt: skip


def prepared(location: str, kind: str, split: str = "") -> pa.Table:
    files = sorted(Path(location, kind, split).glob("*.parquet"))
    table = pa.concat_tables([pq.read_table(file) for file in files])
    keys = ["user_id", "as_of"] if split else table.column_names
    return table.sort_by([(name, "ascending") for name in keys]).combine_chunks()


def directly(values: dict[str, Any], place: Path) -> str:
    """Rows from the files themselves, without Ray and without a store."""
    config = data_config(values["data"])
    fitted = fit(config)
    write_summary(config, fitted, [write_shard(config, fitted, 0, 1, str(place))], str(place))
    return str(place)


def same(first: str, second: str, dead_letters: bool = True) -> None:
    for split in SPLITS:
        for kind in ("rows", "labels"):
            assert prepared(first, kind, split).equals(prepared(second, kind, split)), (kind, split)
    if dead_letters:
        assert prepared(first, "dead_letters").equals(prepared(second, "dead_letters"))


def test_rows_do_not_depend_on_buckets(
    source_values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files laid out by user name users, so they are there only while rows are made."""
    laid_out = []
    monkeypatch.setattr(on_ray_prepare, "ingest", lambda config: laid_out.append(config.store) or ingest(config))
    expected = directly(source_values, tmp_path / "direct")
    for buckets in (2, 5):
        experiment = build(Experiment, changed(source_values, data__shards=buckets), "test")
        same(prepare(Pipeline.of(experiment)), expected)
    assert len(set(laid_out)) == 2
    wrong = changed(source_values, data__max_bad_share=0.0, output=str(tmp_path / "wrong"))
    with pytest.raises(InputError, match="rows cannot be used"):
        prepare(Pipeline.of(build(Experiment, wrong, "test")))
    assert len(laid_out) == 3
    assert not list(tmp_path.glob("*/events-*"))


def test_rows_do_not_depend_on_days(source_values: dict[str, Any], tmp_path: Path) -> None:
    """The click log as one file a day, ingested in two runs."""
    tables = source_values["data"]["source"]["tables"]
    log = Path(tables["clicks"]["files"]).read_text().splitlines()
    header, *lines = log
    days = sorted({line.split(",")[1][:10] for line in lines if line.split(",")[1].startswith("2024")})
    (tmp_path / "days").mkdir()
    for day in days:
        mine = [line for line in lines if line.split(",")[1].startswith(day)]
        (tmp_path / "days" / f"{day}.csv").write_text("\n".join([header, *mine]) + "\n")
    store = str(tmp_path / "store")
    values = {"store": store, "buckets": 3, "max_bad_share": 0.1}
    ingest(build(IngestConfig, {**values, "tables": {"facts": tables["facts"]}}, "test"))
    by_day = {**values, "tables": {"clicks": {**tables["clicks"], "files": f"{tmp_path}/days/{{day}}.csv"}}}
    half = len(days) // 2
    for first, last in ((days[0], days[half]), (days[half + 1], days[-1])):
        period = {"day": dt.date.fromisoformat(first), "last_day": dt.date.fromisoformat(last)}
        ingest(build(IngestConfig, {**by_day, **period}, "test"))
    stored = changed(source_values, data__source={"kind": "store", "location": store})
    place = Pipeline.of(build(Experiment, stored, "test"))
    expected = directly(source_values, tmp_path / "direct")
    same(prepare(place), expected, dead_letters=False)


def test_files_outside_all_windows_are_not_opened(source_values: dict[str, Any], tmp_path: Path) -> None:
    """Events up to and after the last future in two days of a store; the second one's files are then damaged."""
    log = Path(source_values["data"]["source"]["tables"]["clicks"]["files"]).read_text().splitlines()
    lines = {
        "2024-04-12": [line for line in log[1:] if line.split(",")[1] < "2024-04-13"],
        "2024-06-01": [f"u{k},2024-05-0{1 + k % 9}T10:00:00,view,home,item 1," for k in range(60)],
    }
    for day, some in lines.items():
        (tmp_path / f"{day}.csv").write_text("\n".join([log[0], *some]) + "\n")
    clicks = {**source_values["data"]["source"]["tables"]["clicks"], "files": f"{tmp_path}/{{day}}.csv"}
    values = {"store": str(tmp_path / "store"), "buckets": 2, "max_bad_share": 0.1, "tables": {"clicks": clicks}}
    for day in lines:
        ingest(build(IngestConfig, {**values, "day": dt.date.fromisoformat(day)}, "test"))
    [late, *more] = sorted((tmp_path / "store" / "tables" / "clicks").glob("*/s00000002-*.parquet"))
    for file in (late, *more):
        file.write_bytes(b"")
    features = [f for f in source_values["data"]["features"] if f["table"] == "clicks"]
    stored = changed(
        source_values, data__source={"kind": "store", "location": values["store"]}, data__features=features
    )  # fmt: skip
    expected = directly(changed(source_values, data__features=features), tmp_path / "direct")
    same(prepare(Pipeline.of(build(Experiment, stored, "test"))), expected, dead_letters=False)


def test_where_users_have_pseudonyms_no_store_names_them(source_values: dict[str, Any], tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 32)
    place = Pipeline.of(build(Experiment, changed(source_values, data__users__key_file=str(key)), "test"))
    prepare(place)
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == [place.prepare.directory]


def test_a_newer_manifest_is_another_stage_and_an_old_one_stays(source_values: dict[str, Any], tmp_path: Path) -> None:
    tables, store = source_values["data"]["source"]["tables"], str(tmp_path / "store")
    values = {"store": store, "tables": {"clicks": tables["clicks"]}, "max_bad_share": 0.1, "buckets": 2}
    ingest(build(IngestConfig, values, "test"))
    stored = changed(source_values, data__source={"kind": "store", "location": store})
    before = Pipeline.of(build(Experiment, stored, "test")).prepare.location
    ingest(build(IngestConfig, {**values, "tables": {"facts": tables["facts"]}}, "test"))
    assert Pipeline.of(build(Experiment, stored, "test")).prepare.location != before
    pinned = changed(stored, data__source={"kind": "store", "location": store, "manifest": 1})
    assert Pipeline.of(build(Experiment, pinned, "test")).prepare.location == before


def test_facts_are_known_from_the_end_of_their_day(source_values: dict[str, Any], tmp_path: Path) -> None:
    """A user's age is 1 from the end of 29 February on, and 2 from the end of 14 March on."""
    tables, store = source_values["data"]["source"]["tables"], str(tmp_path / "store")
    values = {"store": store, "max_bad_share": 0.1, "buckets": 2}
    ingest(build(IngestConfig, {**values, "tables": {"clicks": tables["clicks"]}}, "test"))
    for day, age in (("2024-02-29", 1), ("2024-03-14", 2)):
        file = tmp_path / f"facts-{day}.csv"
        file.write_text("uid,age\n" + "".join(f"u{k},{age}\n" for k in range(60)))
        facts = {"facts": {"files": f"{tmp_path}/facts-{{day}}.csv", "user": "uid"}}
        ingest(build(IngestConfig, {**values, "tables": facts, "day": dt.date.fromisoformat(day)}, "test"))
    stored = changed(
        source_values, data__source={"kind": "store", "location": store},
        data__features=[{"name": "age", "table": "facts", "sql": "sum(age)", "empty": -1.0}],
    )  # fmt: skip
    location = prepare(Pipeline.of(build(Experiment, stored, "test")))
    ages: dict[str, set[float]] = {}
    for split in SPLITS:
        for row in prepared(location, "rows", split).to_pylist():
            ages.setdefault(f"{row['as_of']:%Y-%m-%d}", set()).update(row["tabular"])
    assert ages == {
        "2024-02-01": {-1.0}, "2024-02-15": {-1.0}, "2024-02-29": {-1.0}, "2024-03-14": {1.0}, "2024-03-28": {2.0}
    }  # fmt: skip
