"""An encoder with all that it needs, in one directory: rows in, vectors out, without Ray and without other downloads.

    export.json    what it is (`ray_ggsm.exporting.manifest`)
    encoder/       the encoder with the pretrained models that it needs (`ray_ggsm.model.pretrained`), and rows.json
                   where it has a definition
    text_model/    the text embedding model of the kind `text`

The encoder's own checks hold here, too: these models must have the digests that it was trained with.
"""

import os
import shutil
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.data import definition
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders import kinds
from ray_ggsm.encoders.language_model import LanguageModel
from ray_ggsm.encoders.text import load_text_model
from ray_ggsm.exporting.manifest import Manifest
from ray_ggsm.exporting.rows import Row, arrow_rows, row_schema
from ray_ggsm.model.contract import Encoder, EncoderBatch
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.event_encoder import EventEncoder
from ray_ggsm.model.kinds import TextConfig
from ray_ggsm.model.pretrained import is_packed, pack, packed

ENCODER, TEXT_MODEL = "encoder", "text_model"
TOKENS_PER_BATCH = 16_384
MOST_TEXTS = 100_000
"""Event texts whose vectors are kept in memory."""


class TextVectors:
    """Event vectors that are made when they are asked for, as the store of event vectors has them (float16).

    Several threads may ask at once: what is known is only added to, until a smaller one takes its place.
    """

    def __init__(self, encoder: EventEncoder) -> None:
        self.encoder = encoder
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, texts: pa.Array) -> np.ndarray:
        """As `ray_ggsm.model.contents.Lookup`: vectors of texts (E, H)."""
        wanted, known = texts.to_pylist(), self._known
        if new := [text for text in dict.fromkeys(wanted) if text not in known]:
            if len(known) > MOST_TEXTS:
                self._known = known = {text: known[text] for text in wanted if text in known}
            known.update(zip(new, self.encoder.encode(new), strict=True))
        found = [known[text] for text in wanted]
        return np.stack(found) if found else np.zeros((0, self.encoder.width), dtype=np.float16)


class Standalone:
    """The encoder of an exported directory."""

    def __init__(self, directory: str, device: torch.device) -> None:
        """Load it.

        Raises:
            InputError: the directory is no export, or its parts do not fit each other.
        """
        self.manifest = Manifest.read(directory)
        saved = SavedEncoder.read(os.path.join(directory, ENCODER))
        if saved.digest != self.manifest.encoder:
            raise InputError(f"{directory}: expected the encoder {self.manifest.encoder}, found {saved.digest}")
        self.description, self.definition = saved.description, definition.read(saved.location)
        text_model = os.path.join(directory, TEXT_MODEL)
        self.encoder: Encoder = kinds.load(
            saved.location,
            self._lookup(saved.location, device),
            device,
            self.manifest.finished_mask,
            text_model if os.path.isdir(text_model) else None,
        )

    def _lookup(self, location: str, device: torch.device) -> "TextVectors | NoTexts":
        config = self.description.model.event_encoder
        if config is None:
            return NoTexts()
        with packed(location, "event_encoder") as directory:
            events = EventEncoder(config, device, directory)
        if events.digest != self.description.event_encoder_digest:
            raise InputError(
                f"{location}: expected the event encoder {self.description.event_encoder_digest}, found "
                f"{events.digest}; export it again"
            )
        return TextVectors(events)

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns that the encoder reads."""
        return row_schema(self.description, self.definition)

    def table(self, rows: Sequence[Row]) -> pa.Table:
        """Rows as the encoder reads them.

        Raises:
            InputError: as `arrow_rows`; or a `query` is longer than the encoder reads.
        """
        table = arrow_rows(rows, self.schema, self.manifest.instruction, self.description.model.kind == "llm")
        if isinstance(self.encoder, LanguageModel):
            cut_B = self.encoder.collator.instruction_tokens_cut(table)
            if cut_B.any():
                row = int(np.argmax(cut_B > 0))
                begins = table["query"][row].as_py()[:40]
                raise InputError(
                    f"rows: the `query` that begins '{begins}' is {cut_B[row]} tokens longer than the encoder reads; "
                    "shorten it"
                )
        return table

    def batch(self, rows: Sequence[Row]) -> EncoderBatch:
        """All rows as one batch, in their order; raises as `arrow_rows`."""
        batch: EncoderBatch = self.encoder.user_sequences(self.table(rows)).batch(np.arange(len(rows)))
        return batch

    def vectors(self, rows: Sequence[Row], tokens_per_batch: int = TOKENS_PER_BATCH) -> np.ndarray:
        """Published vectors of rows, (B, W) float32; a batch has up to so many padded tokens.

        Raises:
            InputError: as `arrow_rows`; or a row does not fit in memory.
        """
        embedded = Embedder(self.encoder, tokens_per_batch)(self.table(rows))
        if not embedded.fits.all():
            raise InputError(f"rows[{int(np.argmin(embedded.fits))}]: it does not fit in memory; shorten its history")
        return embedded.vectors


class NoTexts:
    """The lookup of encoders that read no event vectors."""

    def __call__(self, texts: pa.Array) -> np.ndarray:
        """Vectors without a column."""
        return np.zeros((len(texts), 0), dtype=np.float32)


def write_standalone(encoder: SavedEncoder, manifest: Manifest, directory: str) -> None:
    """Write all parts of an encoder into a local directory.

    Raises:
        InputError: a pretrained part cannot be loaded.
    """
    os.makedirs(directory, exist_ok=True)
    with storage.local_copy(encoder.location) as place:
        shutil.copytree(place, os.path.join(directory, ENCODER))
    exported = SavedEncoder.read(os.path.join(directory, ENCODER))
    if isinstance(config := exported.description.model, TextConfig):
        load_text_model(config).save(os.path.join(directory, TEXT_MODEL), create_model_card=False)
    elif not is_packed(exported.location):
        pack(exported)
    manifest.write(directory)
