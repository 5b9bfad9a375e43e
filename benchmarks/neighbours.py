"""Libraries for an index of nearest users, measured against exact search: usearch, faiss and LanceDB.

    pip install usearch faiss-cpu lancedb
    python benchmarks/neighbours.py [--rows 200000] [--width 128] [--queries 1000] [--k 10] [--only usearch]
    python benchmarks/neighbours.py --table s3://bucket/users

Without a table the vectors are made up: each user lies near one of `rows / 200` groups of very different sizes, the
groups vary in 24 directions that all share, and every coordinate has noise. So neighbours are close in some places and
hardly closer than others elsewhere, as with trained encoders. Queries are further users of the same kind; of a table,
users that the index does not hold.

Printed per index: seconds of one core to build it, bytes on disk, recall@k (share of the k results that are at least as
near as the exact k-th), and queries, one at a time, per second of one core: processor time, so that other work on the
machine does not count. `exact` is a matrix product in memory.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ray_ggsm.numerics import unit
from ray_ggsm.tables import open_table

Search = Callable[[np.ndarray], np.ndarray]
"""One query (D,) -> positions of its k nearest rows."""
DIRECTIONS, SIZE = 24, 200


def made_up(rows: int, width: int, seed: int = 0) -> np.ndarray:
    """Unit vectors with the structure that the module's docstring describes, (rows, width) float32, in random order."""
    rng = np.random.default_rng(seed)
    groups = max(rows // SIZE, 1)
    mixing_FD = rng.normal(size=(DIRECTIONS, width)) / np.sqrt(1 + np.arange(DIRECTIONS))[:, None]
    share_G = (1 / (1 + np.arange(groups))) ** 0.7
    group_N = rng.choice(groups, rows, p=share_G / share_G.sum())
    centre_GF = rng.normal(size=(groups, DIRECTIONS))
    spread_G = rng.uniform(0.1, 0.8, groups)
    factor_NF = centre_GF[group_N] + spread_G[group_N, None] * rng.normal(size=(rows, DIRECTIONS))
    return unit(factor_NF @ mixing_FD + 0.15 * rng.normal(size=(rows, width))).astype(np.float32)


def exact(vectors_ND: np.ndarray, k: int) -> Search:
    """The matrix product."""

    def search(query_D: np.ndarray) -> np.ndarray:
        score_N = vectors_ND @ query_D
        best_K = np.argpartition(-score_N, k)[:k]
        return best_K[np.argsort(-score_N[best_K])]

    return search


def usearch_indices(vectors_ND: np.ndarray, k: int, place: Path) -> Iterator[tuple[str, float, int, Search]]:
    """HNSW graphs over float32, float16 and int8."""
    from usearch.index import Index

    for dtype in ("f32", "f16", "i8"):
        index = Index(ndim=vectors_ND.shape[1], metric="cos", dtype=dtype, connectivity=16, expansion_add=128)
        started = time.process_time()
        index.add(np.arange(len(vectors_ND)), vectors_ND)
        seconds = time.process_time() - started
        index.save(str(place / dtype))
        for expansion in (64, 128, 256):
            found = Index.restore(str(place / dtype), view=True)
            found.expansion_search = expansion
            search = lambda query_D, found=found: found.search(query_D, k, threads=1).keys  # noqa: E731
            yield f"usearch HNSW {dtype}, {expansion} looked at", seconds, (place / dtype).stat().st_size, search


def faiss_indices(vectors_ND: np.ndarray, k: int, place: Path) -> Iterator[tuple[str, float, int, Search]]:
    """HNSW graphs over float32 and float16, and inverted lists."""
    import faiss

    width, lists = vectors_ND.shape[1], int(4 * np.sqrt(len(vectors_ND)))
    ways = {
        "HNSW16,Flat": ("efSearch", (64, 128, 256)),
        "HNSW16,SQfp16": ("efSearch", (64, 128, 256)),
        f"IVF{lists},SQfp16": ("nprobe", (8, 32, 128)),
    }
    for way, (name, values) in ways.items():
        index = faiss.index_factory(width, way, faiss.METRIC_INNER_PRODUCT)
        if name == "efSearch":
            index.hnsw.efConstruction = 128
        started = time.process_time()
        index.train(vectors_ND)
        index.add(vectors_ND)
        seconds = time.process_time() - started
        faiss.write_index(index, str(place / "faiss"))
        for value in values:
            found = faiss.read_index(str(place / "faiss"))
            faiss.ParameterSpace().set_index_parameter(found, name, value)
            search = lambda query_D, found=found: found.search(query_D[None], k)[1][0]  # noqa: E731
            yield f"faiss {way}, {name} {value}", seconds, (place / "faiss").stat().st_size, search


def lancedb_indices(vectors_ND: np.ndarray, k: int, place: Path) -> Iterator[tuple[str, float, int, Search]]:
    """Inverted lists of HNSW graphs over int8."""
    import lancedb
    import pyarrow as pa
    from lancedb.index import IvfHnswSq

    width = vectors_ND.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.reshape(-1)), width)
    started = time.process_time()
    table = lancedb.connect(str(place)).create_table(
        "users", pa.table({"id": np.arange(len(vectors_ND)), "vector": vectors})
    )
    table.create_index("vector", config=IvfHnswSq(distance_type="cosine", num_partitions=4))
    seconds = time.process_time() - started
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    for probes, expansion in ((1, 128), (4, 128), (4, 256)):

        def search(query_D: np.ndarray, probes: int = probes, expansion: int = expansion) -> np.ndarray:
            asked = table.search(query_D).distance_type("cosine").nprobes(probes).ef(expansion).limit(k).select(["id"])
            return asked.to_arrow()["id"].to_numpy()

        yield f"LanceDB IVF_HNSW_SQ, {probes} of 4 lists, {expansion} looked at", seconds, size, search


LIBRARIES = {"usearch": usearch_indices, "faiss": faiss_indices, "lancedb": lancedb_indices}


def measure(search: Search, query_QD: np.ndarray, vectors_ND: np.ndarray, kth_Q: np.ndarray) -> tuple[float, float]:
    """Recall and queries per second of one core."""
    found, started = [], time.process_time()
    for query_D in query_QD:
        found.append(search(query_D))
    seconds = time.process_time() - started
    as_near = [
        (vectors_ND[positions] @ query_D >= kth - 1e-6).sum() / len(positions)
        for positions, query_D, kth in zip(found, query_QD, kth_Q, strict=True)
    ]
    return float(np.mean(as_near)), len(query_QD) / seconds


def main() -> None:
    """Measure every library."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--table", help="an embedding table instead of made-up vectors")
    parser.add_argument("--only", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    options = parser.parse_args()
    all_ND = made_up(options.rows + options.queries, options.width)
    if options.table:
        all_ND = unit(open_table(options.table).matrix()[1]).astype(np.float32)
        np.random.default_rng(0).shuffle(all_ND)
    query_QD, vectors_ND = all_ND[: options.queries], all_ND[options.queries :]
    print(f"{len(vectors_ND):,} vectors of width {vectors_ND.shape[1]}, {os.cpu_count()} cores, k = {options.k}")
    search = exact(vectors_ND, options.k)
    kth_Q = np.array([vectors_ND[search(query_D)[-1]] @ query_D for query_D in query_QD])
    _, rate = measure(search, query_QD, vectors_ND, kth_Q)
    print(f"{'exact':48} {'':>9} {vectors_ND.nbytes / 1e6:>7.0f} MB  recall 1.0000  {rate:>8,.0f} queries/s")
    for library in options.only:
        with tempfile.TemporaryDirectory() as directory:
            for name, seconds, size, search in LIBRARIES[library](vectors_ND, options.k, Path(directory)):
                recall, rate = measure(search, query_QD, vectors_ND, kth_Q)
                line = (
                    f"{name:48} {seconds:>7.1f} s {size / 1e6:>7.0f} MB  recall {recall:.4f}  {rate:>8,.0f} queries/s"
                )
                print(line, flush=True)


if __name__ == "__main__":
    main()
