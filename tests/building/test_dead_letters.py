"""Why rows of the input have no vector: the counts of a build, and what its files say of whom."""

import datetime as dt
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.building.dead_letters import count_reasons
from ray_ggsm.data.schema import DEAD_LETTER
from ray_ggsm.embedding.config import EncodingConfig
from ray_ggsm.tables import open_table
from ray_ggsm.tables.maintenance import forget
from ray_ggsm.tables.suppression import read_suppressed
from tests.building.test_buckets import with_values
from tests.helpers.building import LOOSE, World

KEY = b"0123456789abcdef"


def test_reasons_are_counted_in_rows_of_the_table(world: World, users: pa.Table) -> None:
    """Three users without a moment and one without memory, for two instructions each."""
    world.embedding = EncodingConfig(instructions={"plain": "", "spend": "how much?"})
    world.no_memory_for = ("u0-7",)
    world.give(with_values(users, "as_of", [*[None] * 3, *users["as_of"].to_pylist()[3:]]))
    candidate = world.candidate("r0")
    assert count_reasons(candidate.build) == {"missing_key": 6, "out_of_memory": 2}
    assert candidate.counts.dead_letters == 8


def test_who_is_forgotten_is_counted_and_not_named(world: World, users: pa.Table) -> None:
    world.give(users)
    world.refresh("r0", LOOSE)
    forget(world.table, ["u0-0", "u0-4"], KEY)
    build = replace(world.build("r1"), forgotten=read_suppressed(world.table), key=KEY)
    layout = world.lay_out(build, open_table(world.table))
    assert sum(part.fresh + sum(part.ages.values()) for part in layout.parts) == 9
    assert count_reasons(build) == {"forgotten": 2}
    letters = pq.read_table(build.dead_letters)
    assert letters["user_id"].null_count == len(letters) == 2


def test_records_of_events_are_no_rows(world: World) -> None:
    """The file of a shard has records that were rejected, and rows, which name their split."""
    moment = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
    values = [
        {"split": None, "user_id": "a", "source": "clicks.csv:3", "reason": "bad_time"},
        {"split": "night", "user_id": "b", "as_of": moment, "reason": "non_finite_number"},
    ]
    build = world.build("r0")
    file = storage.join(build.dead_letters, "part-00000-of-00001.parquet")
    storage.write_parquet(file, pa.Table.from_pylist(values, DEAD_LETTER))
    assert count_reasons(build) == {"non_finite_number": 1}
