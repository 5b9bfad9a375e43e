"""Maps that are fitted when a version is published, and read through: turns that are known, without Ray."""

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ray_ggsm.building.buckets import Built, Counts
from ray_ggsm.building.build import Build
from ray_ggsm.building.candidate import Candidate
from ray_ggsm.building.maps import FittedMaps, check_targets, fit_maps
from ray_ggsm.config import InputError
from ray_ggsm.embedding.config import EncodingConfig
from ray_ggsm.hashing import bucket_of
from ray_ggsm.model.event_vectors import VectorStore
from ray_ggsm.numerics import unit
from ray_ggsm.tables import checks, delta, open_table
from ray_ggsm.tables.checks import FileCheck, check_file
from ray_ggsm.tables.config import CompatibleConfig, TargetConfig
from ray_ggsm.tables.files import DataFileConfig
from ray_ggsm.tables.maintenance import forget, rollback, vacuum
from ray_ggsm.tables.metadata import RecordedConfig, VersionMetadata
from ray_ggsm.tables.reader import EmbeddingTable
from ray_ggsm.tables.schema import matrix, rows_to_table
from ray_ggsm.tables.suppression import read_suppressed
from ray_ggsm.tables.tagging import tag
from ray_ggsm.tables.timeline import standing
from tests.helpers.tables import AS_OF, BUCKETS, job, put, stage

N, D = 300, 6
KEY = b"k" * 32
USERS = [f"u{i}" for i in range(N)]
FIRST = unit(np.random.default_rng(0).normal(size=(N, D))).astype(np.float32)
MAPS = CompatibleConfig()


def turn(seed: int, width: int = D) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0].astype(np.float32)


def candidate(
    location: Path, vector_ND: np.ndarray, encoder: str, *, users: list[str] = USERS, moment: dt.datetime = AS_OF,
    embedding: EncodingConfig | None = None, files: DataFileConfig | None = None,
) -> Candidate:  # fmt: skip
    """A version of these vectors, written and not published."""
    embedding, files = embedding or EncodingConfig(), files or DataFileConfig()
    previous = open_table(str(location)) if delta.exists(str(location)) else None
    run = f"r{0 if previous is None else previous.version + 1}"
    forgotten = read_suppressed(str(location))
    build = Build(
        embedding=embedding, files=files, max_text_length=9, encoder="e", encoder_digest=encoder, modalities=(),
        features=0, zone="UTC", vectors=VectorStore((), "cache"), run=run, table=str(location), staging="s",
        buckets=BUCKETS, one_row_each=True, forgotten=forgotten, key=KEY if forgotten.version else None,
    )  # fmt: skip
    as_of = pa.array([moment] * len(users), pa.timestamp("us", "UTC"))
    count_N = np.arange(len(users))
    parts = [
        rows_to_table(pa.array(users), as_of, name, count_N, count_N, vector_ND, encoder, run)
        for name in embedding.instructions
    ]
    rows = build.without_gone(pa.concat_tables(parts))
    written = stage(str(location), rows, run, BUCKETS, files)
    built = [Built(file.bucket, file, False, 0, Counts(), FileCheck()) for file in written]
    return Candidate(build, built, checks.merge([check_file(rows)]), previous, False, len(rows), 0)


def published(found: Candidate, fitted: FittedMaps) -> EmbeddingTable:
    embedding = found.build.embedding
    config = RecordedConfig(instructions=embedding.instructions, mask=embedding.mask)
    metadata = VersionMetadata(config=config, suppressed=found.build.forgotten.version)
    if fitted.maps:
        metadata = metadata.model_copy(update={"maps": fitted.maps})
    verdicts = [] if fitted.verdict is None else [fitted.verdict]
    found.publish(verdicts, None, metadata)
    return open_table(found.build.table)


def publish(location: Path, vector_ND: np.ndarray, encoder: str, config: CompatibleConfig = MAPS, **options):
    found = candidate(location, vector_ND, encoder, **options)
    return published(found, fit_maps(found, config))


def by_user(table: EmbeddingTable, **options) -> np.ndarray:
    """Vectors in the order of USERS."""
    names, vector_ND = table.matrix(**options)
    place = {name: row for row, name in enumerate(names.tolist())}
    return vector_ND[[place[user] for user in USERS if user in place]]


@pytest.fixture
def location(tmp_path: Path) -> Path:
    return tmp_path / "users"


@pytest.fixture
def three(location: Path) -> Path:
    """Three encoders, each a turn of the one before; of the second there are two versions."""
    second = FIRST @ turn(1)
    for vector_ND, encoder in ((FIRST, "enc1"), (second, "enc2"), (second, "enc2"), (second @ turn(2), "enc3")):
        publish(location, vector_ND, encoder)
    return location


def test_maps_are_composed_over_three_encoders(three: Path) -> None:
    table = open_table(str(three))
    maps = [table.metadata(version).maps for version in range(4)]
    assert [[(each.source, each.target) for each in some] for some in maps] == [
        [], [("enc2", "enc1")], [], [("enc3", "enc2")]
    ]  # fmt: skip
    (recorded,) = maps[1]
    assert (recorded.kind, recorded.anchors, recorded.held_out, recorded.same_moment) == ("rotation", 270, 30, True)
    assert recorded.agreement["rotation"] == pytest.approx(1, abs=1e-5)
    assert recorded.raw < 0.5
    for old in (0, 1, 2):
        expected = by_user(table, version=old)
        np.testing.assert_allclose(by_user(table, compatible_with=old), expected, atol=1e-5)
    np.testing.assert_allclose(by_user(table, version=2, compatible_with=0), FIRST, atol=1e-5)
    tag(str(three), "v1", 0)
    rows = table.read(compatible_with="v1", user_ids=["u3", "u7"], columns=["embedding", "encoder"])
    assert rows.column_names == ["embedding", "encoder"]
    assert rows["encoder"].to_pylist() == ["enc3"] * 2
    assert rows.schema == table.read(columns=["embedding", "encoder"]).schema


def test_a_join_of_vectors_of_several_encoders(three: Path) -> None:
    """Each row knows versions up to another one, so that it has a vector of another encoder."""
    table = open_table(str(three))
    committed = [commit.timestamp for commit in table.history()[::-1]]
    version_N = np.arange(N) % 4
    keys = pa.table({"user_id": USERS, "time": [AS_OF] * N, "known": [committed[version] for version in version_N]})
    options = {"known_at": "known", "instruction": "default"}
    with pytest.raises(InputError, match="vectors of several encoders"):
        table.join(keys, **options)
    found = table.join(keys, **options, compatible_with=0)
    np.testing.assert_allclose(matrix(found["embedding"]), FIRST, atol=1e-5)
    assert found["version"].to_pylist() == version_N.tolist()
    assert found["encoder"].to_pylist() == [("enc1", "enc2", "enc2", "enc3")[version] for version in version_N]
    short = table.join(keys, **options, compatible_with=0, dimensions=2)
    np.testing.assert_allclose(matrix(short["embedding"]), unit(FIRST[:, :2]), atol=1e-4)
    with pytest.raises(InputError, match="no map leads from enc1 into the space of enc3"):
        table.join(keys, **options, compatible_with=3)
    with pytest.raises(InputError, match="no version 99"):
        table.join_batches(keys, **options, compatible_with=99)


def test_vectors_that_are_not_of_the_encoder_that_their_version_names(location: Path) -> None:
    """Somebody else's publisher has replaced one bucket only: nothing says in which space the others are."""
    published(candidate(location, FIRST, "enc1"), FittedMaps())
    bucket_N = bucket_of(pa.array(USERS), BUCKETS)
    first = [user for user, bucket in zip(USERS, bucket_N, strict=True) if bucket == 0]
    as_of, count_N = pa.array([AS_OF] * len(first), pa.timestamp("us", "UTC")), np.ones(len(first), np.int64)
    rows = rows_to_table(pa.array(first), as_of, "default", count_N, count_N, FIRST[bucket_N == 0], "enc2", "r1")
    put(str(location), rows, "r1", replaced=[0], metadata=VersionMetadata(encoder="enc2"))
    keys = pa.table({"user_id": [user for user in USERS if user not in first], "time": [AS_OF] * (N - len(first))})
    table = open_table(str(location))
    np.testing.assert_array_equal(matrix(table.join(keys)["embedding"]), FIRST[bucket_N != 0])
    with pytest.raises(InputError, match=r"has vectors of \['enc1'\], and version 1 records the encoder enc2"):
        table.join(keys, compatible_with=0)


def test_a_join_of_versions_of_several_widths(location: Path) -> None:
    """The number of published dimensions was changed; all vectors of before have more than now."""
    for width in (D, 4):
        published(candidate(location, unit(FIRST[:, :width]).astype(np.float32), "enc1"), FittedMaps())
    table = open_table(str(location))
    committed = [commit.timestamp for commit in table.history()[::-1]]
    keys = pa.table({"user_id": USERS[:4], "time": [AS_OF] * 4, "known": committed * 2})
    with pytest.raises(InputError, match=r"of widths \[4, 6\], which do not compare; ask for as many with dimensions="):
        table.join(keys, known_at="known")
    for target in (None, 0, 1):
        found = table.join(keys, known_at="known", dimensions=4, compatible_with=target)
        np.testing.assert_allclose(matrix(found["embedding"]), unit(FIRST[:4, :4]), atol=1e-6)
    same = table.read(version=0, dimensions=4)
    assert table.read(version=0, dimensions=4, compatible_with=1).equals(same)
    with pytest.raises(InputError, match="the way into the other space needs vectors of 4 dimensions, gets 6"):
        table.read(version=0, compatible_with=1)
    with pytest.raises(InputError, match="dimensions: the vectors have 4, and 5 were asked for"):
        table.join(keys, known_at="known", dimensions=5)
    with pytest.raises(InputError, match="dimensions: expected at least 1, found 0"):
        table.join(keys, dimensions=0)


def test_readers_without_it_are_as_before(three: Path) -> None:
    table, plain = open_table(str(three)), three.parent / "plain"
    for vector_ND, encoder in ((FIRST, "enc1"), (FIRST @ turn(1), "enc2")):
        published(candidate(plain, vector_ND, encoder), FittedMaps())
    assert open_table(str(plain)).read().equals(table.read(version=1))
    assert "maps" not in open_table(str(plain)).metadata().values()
    assert table.read(compatible_with=3).equals(table.read()), "its own space: not a bit changes"
    assert table.read(version=1, compatible_with=2).equals(table.read(version=1))


def test_where_no_map_leads(three: Path) -> None:
    table = open_table(str(three))
    with pytest.raises(
        InputError, match=r"no map leads from enc1 into the space of enc3 .*there are enc3 -> enc2, enc2"
    ):
        table.read(version=0, compatible_with=3)
    with pytest.raises(InputError, match="no tag 'v9'"):
        table.read(compatible_with="v9")
    unmapped = three.parent / "unmapped"
    for encoder in ("enc1", "enc2"):
        published(candidate(unmapped, FIRST, encoder), FittedMaps())
    with pytest.raises(InputError, match=r"there are no maps\. A map is fitted when"):
        open_table(str(unmapped)).read(compatible_with=0)


def test_widths_and_precision_may_differ(location: Path) -> None:
    publish(location, FIRST[:, :4] / np.linalg.norm(FIRST[:, :4], axis=1, keepdims=True), "narrow")
    wide = np.hstack([by_user(open_table(str(location))), np.zeros((N, 5), np.float32)]) @ turn(3, 9)
    table = publish(location, wide, "wide", files=DataFileConfig(precision="int8"))
    (recorded,) = table.metadata().maps
    assert recorded.raw is None
    assert recorded.agreement["rotation"] > 0.999, "int8 costs a map next to nothing"
    mapped = by_user(table, compatible_with=0)
    assert mapped.shape == (N, 4)
    np.testing.assert_allclose(mapped, by_user(table, version=0), atol=0.03)
    np.testing.assert_allclose(np.linalg.norm(mapped, axis=1), 1, atol=1e-6)


def test_a_shorter_form_of_the_same_space_is_not_the_space(location: Path) -> None:
    """`publishing.files.dimensions` changed, and the encoder did not: neither no map nor an old one leads there."""
    publish(location, FIRST, "enc1")
    publish(location, FIRST @ turn(1), "enc2")
    table = publish(location, unit(FIRST[:, :4]).astype(np.float32), "enc1")
    for version in (0, 1):
        if version == 1:
            table = publish(location, unit((FIRST @ turn(1))[:, :4]).astype(np.float32), "enc2")
        with pytest.raises(InputError, match=r"needs vectors of 6 dimensions, gets 4.*files.dimensions"):
            table.read(compatible_with=version)


def test_versions_of_the_config_are_looked_at_first(location: Path) -> None:
    table = publish(location, FIRST, "enc1")
    check_targets(CompatibleConfig(to=({"version": 0},)), table)
    check_targets(CompatibleConfig(to=({"version": 7},)), None)  # the table's first version
    with pytest.raises(InputError, match="7"):
        check_targets(CompatibleConfig(to=({"version": 7},)), table)
    with pytest.raises(InputError, match="nowhere"):
        check_targets(CompatibleConfig(to=({"table": str(location.parent / "nowhere")},)), table)


def test_each_instruction_has_its_own_map(location: Path) -> None:
    asked = EncodingConfig(instructions={"default": "", "spend": "What will this user spend?"})
    publish(location, FIRST, "enc1", embedding=asked)
    other = EncodingConfig(instructions={"default": "", "spend": "How much?"})
    table = publish(location, FIRST, "enc1", embedding=other)
    (recorded,) = table.metadata().maps
    assert recorded.instruction == "spend", "another text of an instruction is another space"
    table = publish(location, FIRST @ turn(1), "enc2", embedding=other)
    assert [each.instruction for each in table.metadata().maps] == ["default", "spend"]
    mapped = table.read(compatible_with=0, columns=["user_id", "instruction", "embedding"])
    assert mapped.select(["user_id", "instruction"]).equals(table.read(columns=["user_id", "instruction"]))
    spend = by_user(table, compatible_with=0, instruction="spend")
    np.testing.assert_allclose(spend, FIRST, atol=1e-5)


def test_too_few_anchors_fail_the_gate(location: Path) -> None:
    publish(location, FIRST, "enc1")
    found = candidate(location, FIRST[:11], "enc2", users=USERS[:11])
    fitted = fit_maps(found, MAPS)
    assert fitted.maps == ()
    assert not fitted.verdict.passed
    assert "no map from enc2 to enc1 ('default'): 11 anchor rows" in fitted.verdict.sentence
    assert "needs 12 (2 per dimension)" in fitted.verdict.sentence
    strangers = fit_maps(candidate(location, FIRST, "enc2", users=[f"x{i}" for i in range(N)]), MAPS)
    assert "no user has a vector of both" in strangers.verdict.sentence


def test_a_new_instruction_needs_no_map(location: Path) -> None:
    publish(location, FIRST, "enc1")
    more = EncodingConfig(instructions={"default": "", "spend": "What will this user spend?"})
    table = publish(location, FIRST @ turn(1), "enc2", embedding=more)
    assert [each.instruction for each in table.metadata().maps] == ["default"]
    with pytest.raises(InputError, match=r"the space of a version without such vectors \(instruction 'spend'\)"):
        table.read(compatible_with=0)


def test_an_old_tag_does_not_stop_a_version(location: Path) -> None:
    publish(location, FIRST[:20], "enc1", users=[f"x{i}" for i in range(20)])
    tag(str(location), "long_ago")
    published(candidate(location, FIRST, "enc2"), FittedMaps())
    fitted = fit_maps(candidate(location, FIRST @ turn(1), "enc3"), CompatibleConfig(min_agreement=0.9))
    assert [each.target for each in fitted.maps] == ["enc2"]
    assert fitted.verdict.passed
    assert "no map from enc3 to enc1 ('default'): no user has a vector of both" in fitted.verdict.sentence
    asked = CompatibleConfig(to=(TargetConfig(version="long_ago"),))
    assert not fit_maps(candidate(location, FIRST @ turn(1), "enc3"), asked).verdict.passed


def test_the_gate_asks_for_agreement(location: Path) -> None:
    publish(location, FIRST, "enc1")
    unrelated = candidate(location, unit(np.random.default_rng(5).normal(size=(N, D))), "enc2")
    fitted = fit_maps(unrelated, CompatibleConfig(min_agreement=0.8))
    assert not fitted.verdict.passed
    assert fitted.verdict.sentence.endswith("at least 0.8 needed")
    assert fit_maps(unrelated, MAPS).verdict.passed
    turned = fit_maps(candidate(location, FIRST @ turn(1), "enc2"), CompatibleConfig(min_agreement=0.8))
    assert turned.verdict.passed
    assert fit_maps(candidate(location, FIRST, "enc1"), MAPS) == FittedMaps(), "the same encoder needs no map"


def test_the_forgotten_are_no_anchors(location: Path) -> None:
    """They are still in the older version, turned elsewhere, which would show in the map."""
    gone = USERS[: N // 3]
    old = FIRST.copy()
    old[: N // 3] = old[: N // 3] @ turn(8)
    publish(location, old, "enc1")
    published(candidate(location, FIRST @ turn(2), "enc2"), FittedMaps())
    forget(str(location), gone, KEY)
    table = publish(location, FIRST @ turn(1), "enc3", CompatibleConfig(to=(TargetConfig(version=0),)))
    assert len(table.read(version=0)) == N
    for recorded in table.metadata().maps:
        assert recorded.anchors + recorded.held_out == N - len(gone)
        assert recorded.agreement["rotation"] == pytest.approx(1, abs=1e-5)
    names, mapped = open_table(str(location), KEY).matrix(compatible_with=0)
    assert not {*names.tolist()} & {*gone}
    np.testing.assert_allclose(mapped, FIRST[[USERS.index(name) for name in names.tolist()]], atol=1e-5)


def test_anchors_are_of_the_same_moment_where_these_are_enough(location: Path) -> None:
    day = dt.timedelta(days=1)
    publish(location, FIRST, "enc1")
    later = publish(location, FIRST @ turn(1), "enc2", moment=AS_OF + day)
    (recorded,) = later.metadata().maps
    assert (recorded.same_moment, recorded.anchors) == (False, 270)
    assert "of different moments" in later.metadata().gates["compatible"]


@pytest.mark.parametrize("target", ["tag", "number"])
def test_a_map_of_its_own_instead_of_several(location: Path, target: str) -> None:
    """Noise in the version between costs a composed map, and not the direct one."""
    publish(location, FIRST, "enc1")
    if target == "tag":
        tag(str(location), "models")
    noisy = unit(FIRST @ turn(1) + 0.6 * np.random.default_rng(1).normal(size=(N, D)) / np.sqrt(D)).astype(np.float32)
    publish(location, noisy, "enc2")
    to = () if target == "tag" else (TargetConfig(version=0),)
    table = publish(location, FIRST @ turn(2), "enc3", CompatibleConfig(to=to))
    assert [(each.source, each.target) for each in table.metadata().maps] == [("enc3", "enc2"), ("enc3", "enc1")]
    assert len(table.routes(None, 0).path("default")) == 1
    np.testing.assert_allclose(by_user(table, compatible_with=0), FIRST, atol=1e-5)


def test_a_side_table_is_mapped_into_the_space_of_the_main_one(location: Path) -> None:
    main = publish(location, FIRST, "enc1")
    to = CompatibleConfig(to=(TargetConfig(table=str(location)),))
    side = publish(location.parent / "side", FIRST @ turn(1), "enc2", to)
    np.testing.assert_allclose(by_user(side, compatible_with=main.metadata()), FIRST, atol=1e-5)
    again = publish(location.parent / "side", FIRST @ turn(1), "enc2", to)
    assert again.metadata().maps == (), "there is one already"
    np.testing.assert_allclose(by_user(again, compatible_with=main.metadata()), FIRST, atol=1e-5)


def test_files_of_maps(three: Path) -> None:
    table = open_table(str(three))
    before = by_user(table, compatible_with=0)
    vacuum(str(three), 0, dry_run=False)
    np.testing.assert_array_equal(by_user(open_table(str(three)), compatible_with=table.metadata(0)), before)
    (recorded,) = table.metadata().maps
    file = three / "_maps" / f"{recorded.file}.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match=f"{file}: this map is damaged, its content has the digest"):
        open_table(str(three)).read(compatible_with=0)
    assert open_table(str(three)).read().num_rows == N, "nobody else needs it"
    file.unlink()
    with pytest.raises(InputError, match=f"{file}: this map is missing; restore it from a backup"):
        open_table(str(three)).read(compatible_with=0)


def test_blue_and_green(location: Path, capsys) -> None:
    """A tag that readers follow goes to the new encoder's version, and back."""
    place = str(location)
    publish(location, FIRST, "enc1")
    tag(place, "live")
    blue = open_table(place).read(version="live")
    publish(location, FIRST @ turn(1), "enc2")
    assert open_table(place).read(version="live").equals(blue), "a new version switches nobody"
    np.testing.assert_allclose(by_user(open_table(place), version=1, compatible_with="live"), FIRST, atol=1e-5)
    reader = open_table(place)
    reader.read(version="live", user_ids=["u1"])
    assert job("tag", place, "live", "--version", 1, "--move") == 0
    assert "tag live: version 1, 300 rows in 5 files; before: version 0" in capsys.readouterr().out
    assert reader.read(version="live").equals(blue), "whoever has begun ends with what there was"
    assert open_table(place).read(version="live").equals(open_table(place).read(version=1))
    vacuum(place, 10_000, dry_run=False)
    assert job("tag", place, "live", "--version", 0, "--move") == 0
    assert open_table(place).read(version="live").equals(blue)
    assert rollback(place, "live") == 2
    assert open_table(place).read().equals(blue)


def test_a_map_of_a_withdrawn_version_is_fitted_anew(location):
    """It once stayed for good, and the gate was skipped without a word."""
    place = str(location)
    publish(location, FIRST, "enc1")
    rng = np.random.default_rng(3)
    publish(location, unit(rng.normal(size=FIRST.shape)).astype(np.float32), "enc2")  # vectors of something else
    rollback(place, 0)
    assert standing(open_table(place).history()) == {0, 2}
    found = candidate(location, FIRST @ turn(1), "enc2")
    fitted = fit_maps(found, CompatibleConfig(min_agreement=0.95))
    assert fitted.verdict is not None
    assert fitted.verdict.passed
    table = published(found, fitted)
    np.testing.assert_allclose(by_user(table, compatible_with=0), FIRST, atol=1e-5)
    publish(location, FIRST @ turn(1), "enc2")
    assert not open_table(place).metadata().maps, "a map that stands is not fitted again"


def test_equal_vectors_make_no_map_and_the_gates_speak(location):
    publish(location, FIRST, "enc1")
    fitted = fit_maps(candidate(location, np.tile(FIRST[:1], (N, 1)), "enc2"), CompatibleConfig(min_agreement=0.5))
    assert fitted.verdict is not None
    assert not fitted.verdict.passed
    assert "all new vectors are equal" in fitted.verdict.sentence
