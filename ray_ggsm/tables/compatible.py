"""Reading new vectors in the space of an older encoder: the maps of a table, which of them lead there, and their use.

A space is what makes vectors comparable: encoder, mask, and the text of the instruction. A version records the maps
that were fitted with it; from its space to an older one the way with the fewest maps is taken, one after the other.
Their files, `<table>/_maps/<digest>.safetensors`, are never written again and no vacuum removes them.

Legend: N rows, D width.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm import storage
from ray_ggsm.config import InputError, digest
from ray_ggsm.hashing import content_digest
from ray_ggsm.tables.metadata import Commit, RecordedConfig, RecordedMap, VersionMetadata
from ray_ggsm.tables.schema import SCHEMA, lists, matrix
from ray_ggsm.tables.space_map import SpaceMap

DIRECTORY = "_maps"
"""Name of the maps' directory in a table's."""
Route = Sequence[SpaceMap]
"""Maps one after the other; empty: the vectors are in the space."""


def space(encoder: str, mask: str | None, text: str | None) -> str:
    """The name of a space: the encoder's digest, where mask (`trained`) and text of the instruction (none) are the
    usual ones; None: not recorded, which is taken for the usual one."""
    usual = (mask or "trained", text or "") == ("trained", "")
    return encoder if usual else digest(encoder, mask or "trained", text or "")


def space_of(metadata: VersionMetadata, instruction: str) -> str | None:
    """The space of a version's vectors of an instruction; None: it has none, or does not say of which encoder."""
    config = metadata.config or RecordedConfig()
    known = config.instructions is None or instruction in config.instructions
    if metadata.encoder is None or not known:
        return None
    return space(metadata.encoder, config.mask, (config.instructions or {}).get(instruction))


def recorded_maps(commits: Sequence[Commit]) -> list[RecordedMap]:
    """All maps of a table whose commits are these, newest first; of several with the same ends, the newest."""
    found: dict[tuple[str, str, str], RecordedMap] = {}
    for commit in commits:
        for each in commit.metadata.maps:
            found.setdefault((each.instruction, each.source, each.target), each)
    return list(found.values())


@dataclass(frozen=True)
class Routes:
    """The ways from the vectors of one version into the space of another."""

    location: str
    """The table's location."""
    maps: Sequence[RecordedMap]
    """Its maps."""
    source: VersionMetadata
    """Of the version that is read."""
    target: VersionMetadata
    """Of the version into whose space vectors are to go."""

    def apply(self, rows: pa.Table, dimensions: int | None = None) -> pa.Table:
        """The rows, which have `instruction` and `embedding`, with mapped vectors, of which so many are to be kept.

        Raises:
            InputError: no map leads there, or the file of one is missing or damaged.
        """
        routes = {name: self.route(name, dimensions) for name in rows["instruction"].unique().to_pylist()}
        place = rows.column_names.index("embedding")
        chunks = [_mapped(batch, routes) for batch in rows.to_batches() if any(routes.values())]
        vectors = pa.chunked_array(chunks, SCHEMA.field("embedding").type) if chunks else rows["embedding"]
        return rows.set_column(place, SCHEMA.field("embedding"), vectors)

    def route(self, instruction: str, dimensions: int | None = None) -> Route:
        """The maps of an instruction's vectors; arguments and errors as of `apply`."""
        maps = [read_map(self.location, each.file) for each in self.path(instruction)]
        if not maps and dimensions is not None:
            return maps  # vectors of one encoder, published with more or fewer dimensions
        ends = [shape for each in maps for shape in each.weight_BA.shape]
        found, expected = [self.source.width, *ends[1::2]], [*ends[::2], self.target.width]
        for width, needed in zip(found, expected, strict=True):
            if None not in (width, needed) and width != needed:
                raise InputError(
                    f"{self.location}: the way into the other space needs vectors of {needed} dimensions, gets {width}:"
                    " publishing.files.dimensions has changed, and maps are fitted on what is published"
                )
        return maps

    def path(self, instruction: str) -> list[RecordedMap]:
        """The recorded maps of an instruction's vectors, in the order in which they apply.

        Raises:
            InputError: none lead there.
        """
        ends = [space_of(metadata, instruction) for metadata in (self.source, self.target)]
        own = [each for each in self.maps if each.instruction == instruction]
        found = None if None in ends else _shortest(own, str(ends[0]), str(ends[1]))
        if found is None:
            known = ", ".join(f"{each.source} -> {each.target}" for each in own) or "no maps"
            raise InputError(
                f"{self.location}: no map leads from {_named(ends[0])} into the space of {_named(ends[1])} "
                f"(instruction '{instruction}'); there are {known}. A map is fitted when a version of another encoder "
                "is published with publishing.compatible"
            )
        return found


def _named(end: str | None) -> str:
    return "a version without such vectors" if end is None else end


def _shortest(maps: Sequence[RecordedMap], source: str, target: str) -> list[RecordedMap] | None:
    """The path with the fewest maps; of equally short ones that of the newest maps; None: there is none."""
    paths: dict[str, list[RecordedMap]] = {source: []}
    waiting = deque([source])
    while waiting:
        here = waiting.popleft()
        if here == target:
            return paths[here]
        for each in maps:
            if each.source == here and each.target not in paths:
                paths[each.target] = [*paths[here], each]
                waiting.append(each.target)
    return None


def read_map(location: str, name: str) -> SpaceMap:
    """The map in a file of the table at `location`.

    Raises:
        InputError: it is missing, or not what the version recorded.
    """
    file = _file(location, name)
    try:
        data = storage.read_bytes(file)
    except FileNotFoundError:
        raise InputError(f"{file}: this map is missing; restore it from a backup") from None
    if (found := content_digest(data)) != name:
        raise InputError(f"{file}: this map is damaged, its content has the digest {found}; restore it from a backup")
    return SpaceMap.from_bytes(data, file)


def write_map(location: str, found: SpaceMap) -> str:
    """Write the file of a map below the table at `location`; returns its name."""
    data = found.to_bytes()
    name = content_digest(data)
    storage.write_bytes(_file(location, name), data)
    return name


def _file(location: str, name: str) -> str:
    return storage.join(location, DIRECTORY, f"{name}.safetensors")


def follow(route: Route, vector_ND: np.ndarray) -> np.ndarray:
    """The vectors after all maps, float32."""
    for each in route:
        vector_ND = each(vector_ND)
    return vector_ND


def _mapped(batch: pa.RecordBatch, routes: Mapping[str, Route]) -> pa.ListArray:
    """The vectors of some rows, mapped by instruction."""
    parts, places = [], []
    for name in batch["instruction"].unique().to_pylist():
        of_it = pc.equal(batch["instruction"], name)
        places.append(np.flatnonzero(of_it.to_numpy(zero_copy_only=False)))
        parts.append(lists(follow(routes[name], matrix(pa.chunked_array([batch["embedding"].filter(of_it)])))))
    return pa.concat_arrays(parts).take(pa.array(np.argsort(np.concatenate(places))))
