"""Where indices lie, and what each records about itself.

    <table>/_index/<digest of instruction and data files>.json    what the index of a version is made of
    <table>/_index/shards/<digest>/vectors.faiss, users.arrow     the users of some buckets; shard.json is written last

The digests cover the names of data files, which are never written twice. So an index belongs to what a version holds:
a version with other files has none, and buckets that did not change keep their shards.
"""

from collections.abc import Collection, Sequence
from typing import Literal

from ray_ggsm import storage
from ray_ggsm.config import InputError, Record, digest
from ray_ggsm.tables.files import DataFile

DIRECTORY = "_index"
"""Name of the indices' directory in a table's."""
VECTORS, USERS, SHARD = "vectors.faiss", "users.arrow", "shard.json"
"""Files of a shard."""


class IndexSettings(Record):
    """How an index is made and searched: vectors lie in lists of near ones, and a query looks at a few lists."""

    probes: int = 32
    """Lists of a shard that a query looks at, at least; more: better recall, slower."""
    precision: Literal["f32", "f16", "i8"] = "f16"
    """How the index keeps vectors."""
    rows_per_shard: int = 1_000_000
    """Rows of a shard, at least (the last one may have fewer). Building needs the memory of one shard."""


class IndexFile(Record):
    """One file of a shard."""

    size: int
    """Bytes."""
    sha256: str
    """Digest of its content."""


class Shard(Record):
    """The users of some buckets."""

    name: str
    """Its directory."""
    rows: int
    """Rows of the instruction in these buckets."""
    width: int
    """Width of the vectors; 0: there are no rows."""
    files: dict[str, IndexFile]
    """Name -> file."""


class Quality(Record):
    """What was measured on some of the index's own users against exact search, when it was built."""

    queries: int
    """Users whose nearest were sought; they are not counted among their own."""
    k: int
    """Nearest users of each."""
    recall: float
    """Share of the exact k that the index found."""
    queries_per_second: float
    """One query at a time."""
    exact_queries_per_second: float
    """All queries in one pass over the version's files."""


class IndexManifest(Record):
    """The index of what a version holds."""

    format: Literal[1] = 1
    version: int
    """Version that it was built on; others with the same files have the same index."""
    files: str
    """Digest of the instruction and of the version's data files."""
    instruction: str
    """Instruction whose rows it holds."""
    metric: Literal["cosine"] = "cosine"
    library: str
    """Library and its version."""
    settings: IndexSettings
    shards: tuple[Shard, ...]
    quality: Quality | None = None
    """None: there was nothing to measure."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(shard.rows for shard in self.shards)


def files_digest(instruction: str, files: Sequence[DataFile]) -> str:
    """What an index of these files is called."""
    return digest(instruction, [[file.path, file.size] for file in files])


def manifest_path(location: str, files: str) -> str:
    """The manifest of the index with this digest."""
    return storage.join(location, DIRECTORY, f"{files}.json")


def shard_path(location: str, name: str) -> str:
    """The directory of a shard."""
    return storage.join(location, DIRECTORY, "shards", name)


def read_manifest(file: str) -> IndexManifest:
    """The manifest in a file.

    Raises:
        InputError: it is damaged, or of another index.
    """
    try:
        found = IndexManifest.model_validate_json(storage.read_bytes(file))
    except ValueError as error:
        raise InputError(
            f"{file}: this index cannot be read ({' '.join(str(error).split())[:200]}); remove the file, and build the "
            "index again"
        ) from None
    if not file.endswith(f"{found.files}.json"):
        raise InputError(f"{file}: this is the manifest of another index, {found.files}; build the index again")
    return found


def read_manifests(location: str) -> list[IndexManifest]:
    """All indices of a table, by version."""
    files = storage.list_files(storage.join(location, DIRECTORY), ".json")
    found = [read_manifest(file) for file in files if file.rsplit("/", 2)[1] == DIRECTORY]
    return sorted(found, key=lambda each: each.version)


def needed_files(location: str, versions: Collection[Sequence[DataFile]], older: Collection[str]) -> set[str]:
    """Paths, below the table, of the index files that belong to the data files of some versions, or whose manifest is
    not among the `older` files."""
    kept: set[str] = set()
    for found in read_manifests(location):
        manifest = f"{DIRECTORY}/{found.files}.json"
        if manifest not in older or any(files_digest(found.instruction, files) == found.files for files in versions):
            kept.add(manifest)
            names = [VECTORS, USERS, SHARD]
            kept |= {f"{DIRECTORY}/shards/{shard.name}/{name}" for shard in found.shards for name in names}
    return kept
