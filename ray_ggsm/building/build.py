"""What a new version of an embedding table is built from; every task of the build gets it.

Vectors are staged chunk by chunk, sorted into one file per bucket, checked by the gates, and published by one commit. A
staged file gets its name when it is complete, and the name depends on the chunk only. So whatever is killed, the next
run does the chunks that have no file yet: nothing is lost, nothing is done twice, and there is no list of ids to keep.

Tasks that only read and write import this folder, and it must not import torch: that takes seconds which such a task
has no use for (tests/test_layers.py).
"""

from dataclasses import dataclass

from ray_ggsm import storage
from ray_ggsm.embedding.config import EncodingConfig
from ray_ggsm.model.event_vectors import VectorStore


@dataclass(frozen=True)
class Build:
    """One build of one version."""

    embedding: EncodingConfig
    max_text_length: int
    """Of an event, in characters; rows with a longer one are rejected."""
    encoder: str
    """Location of the saved encoder."""
    encoder_digest: str
    modalities: tuple[str, ...]
    features: int
    """Numbers in a row's tabular vector."""
    vectors: VectorStore
    """Of event texts."""
    run: str
    """Names the files of this build."""
    staging: str
    """Where staged files and dead letters go."""
    buckets: int

    @property
    def chunks(self) -> str:
        """The directory of staged files. Files of another cut of the rows would not fit, so it names the cut."""
        return storage.join(self.staging, f"chunks-of-{self.embedding.rows_per_chunk}")

    def staged(self, chunk: int) -> str:
        """The staged file of a chunk, by number."""
        return storage.join(self.chunks, f"{chunk:08d}.parquet")

    @property
    def dead_letters_directory(self) -> str:
        """The directory of rejected rows, for this cut of the input, too."""
        return storage.join(self.staging, "dead_letters", f"of-{self.embedding.rows_per_chunk}")

    def dead_letters(self, chunk: int, why: str) -> str:
        """The rejected rows of a chunk, by number."""
        return storage.join(self.dead_letters_directory, f"{chunk:08d}-{why}.parquet")
