"""The input module of exported sentence-transformers directories: user rows -> vectors."""

import json
import os
from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule

from ray_ggsm.config import InputError
from ray_ggsm.exporting.standalone import Standalone

MODULE = "ray_ggsm.exporting.user_rows.UserRows"
"""As modules.json names the class below."""


class UserRows(InputModule):
    """The only module of the model: it reads rows (`ray_ggsm.exporting.rows`) and makes vectors."""

    save_in_root = True

    def __init__(self, directory: str) -> None:
        """Load the encoder of an exported directory.

        Raises:
            InputError: it is no export, or its parts do not fit each other.
        """
        super().__init__()
        self.directory = directory
        self.standalone = Standalone(directory, torch.device("cpu"))
        encoder: Any = self.standalone.encoder
        self.encoder = encoder.model
        """The weights, so that `to` moves them."""

    @property
    def modalities(self) -> list[Any]:
        """None of the library's: rows are told by mappings of this package."""
        return ["message"]

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **unknown: Any) -> dict[str, object]:
        """Rows -> one batch.

        Raises:
            InputError: a row is wrong, or something is asked for that only texts have.
        """
        if prompt or unknown:
            raise InputError("encode: user rows take no prompt and no options of texts; a row's `query` is its prompt")
        return {"batch": self.standalone.batch(inputs)}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, object]:
        """Published vectors, (B, W) float32."""
        batch = features["batch"].to(self.standalone.encoder.device)
        return {"sentence_embedding": self.standalone.encoder.vectors(batch, "user")}

    def get_embedding_dimension(self) -> int:
        """W."""
        return self.standalone.manifest.width

    def save(self, output_path: str, *args: Any, **keywords: Any) -> None:
        """Refused: a copy of the directory is the same."""
        raise InputError(f"copy the directory {self.directory} instead; the exported encoder does not change")

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, object] | None = None,
        **unused: Any,
    ) -> "UserRows":
        """Load it from a local directory.

        Raises:
            InputError: it is none, or no export.
        """
        return cls(os.path.join(model_name_or_path, subfolder))


def open_model(directory: str) -> SentenceTransformer:
    """The sentence-transformers model of an exported directory, which runs no code of that directory; errors as in
    `Standalone`."""
    return SentenceTransformer(modules=[UserRows(directory)])


def write_modules(directory: str) -> None:
    """Write what sentence-transformers looks for into an exported directory."""
    import sentence_transformers

    _write(directory, "modules.json", [{"idx": 0, "name": "0", "path": "", "type": MODULE}])
    versions = {"sentence_transformers": sentence_transformers.__version__}
    values = {"model_type": "SentenceTransformer", "__version__": versions, "similarity_fn_name": "cosine"}
    _write(directory, "config_sentence_transformers.json", values)


def _write(directory: str, name: str, values: object) -> None:
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        json.dump(values, file, indent=2)
