"""The description of one build of a table version; every task of the build gets it.

Vectors are staged chunk by chunk, sorted into one file per bucket, checked by the gates, and published by one commit. A
staged file gets its name when it is complete, and the name depends on the chunk only. So whatever is killed, the next
run does the chunks that have no file yet: nothing is lost, nothing is done twice, and there is no list of ids to keep.

Tasks that only read and write import this folder, and it must not import torch, which would add seconds to the start of
each (tests/test_layers.py).
"""

from dataclasses import dataclass

from ray_ggsm import storage
from ray_ggsm.embedding.config import EncodingConfig
from ray_ggsm.model.event_vectors import VectorStore


@dataclass(frozen=True)
class Build:
    """One build of one version."""

    embedding: EncodingConfig
    """How user rows become vectors."""
    max_text_length: int
    """Longest event text, in characters; rows with a longer one are rejected."""
    encoder: str
    """Location of the saved encoder."""
    encoder_digest: str
    """Digest of the encoder."""
    modalities: tuple[str, ...]
    """Columns of events that the encoder reads."""
    features: int
    """Numbers in a row's tabular vector."""
    zone: str
    """Time zone whose clock the ages of events follow."""
    vectors: VectorStore
    """Vectors of event texts."""
    run: str
    """Name of the run, and of its files."""
    staging: str
    """Directory of staged files and dead letters."""
    buckets: int
    """Number of buckets of the table."""

    @property
    def chunks(self) -> str:
        """Directory of staged files; it names the cut of the rows, because files of another cut would not fit."""
        return storage.join(self.staging, "chunks", self._cut)

    def staged(self, chunk: int) -> str:
        """Staged file of the chunk with this number."""
        return storage.join(self.chunks, f"{chunk:08d}.parquet")

    @property
    def dead_letters_directory(self) -> str:
        """Directory of rejected rows, also for this cut of the rows alone."""
        return storage.join(self.staging, "dead_letters", self._cut)

    def dead_letters(self, chunk: int, why: str) -> str:
        """File of the rejected rows of the chunk with this number."""
        return storage.join(self.dead_letters_directory, f"{chunk:08d}-{why}.parquet")

    def clean(self) -> None:
        """Remove what is not needed once a version is published: staged files, and dead letters of other cuts."""
        storage.remove(storage.join(self.staging, "chunks"))
        for file in storage.list_files(storage.join(self.staging, "dead_letters")):
            if file.split("/")[-2] != self._cut:
                storage.remove(file)

    @property
    def _cut(self) -> str:
        return f"of-{self.embedding.rows_per_chunk}"
