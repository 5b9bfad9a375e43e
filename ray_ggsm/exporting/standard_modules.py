"""An encoder that reads rows as text, as a sentence-transformers model of that library's own modules alone.

Only the kind `text` reads nothing but text: its vectors are those of its model, centred and normalised. Centring is a
`Dense` module whose weights are the identity and whose bias is the negative centre, which is exact in float32.
"""

import os

import torch
from safetensors.torch import load_file

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.data import definition
from ray_ggsm.encoders.small_model import WEIGHTS
from ray_ggsm.encoders.text import load_text_model
from ray_ggsm.exporting.manifest import Manifest
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.kinds import TextConfig

PROMPT = "users"


def check_standard(encoder: SavedEncoder) -> None:
    """Refuse an encoder whose vectors the library's own modules cannot give exactly.

    Raises:
        InputError: it reads more than text, or computes in bfloat16.
    """
    config = encoder.description.model
    if not isinstance(config, TextConfig):
        raise InputError(
            f"target: an encoder of the kind {config.kind} reads event vectors and numbers, which are no tokens; "
            "sentence-transformers' own modules cannot give its vectors; `ray_ggsm.exporting.user_rows` does"
        )
    if config.dtype != "float32":
        raise InputError(
            "target: the encoder's text model computes in bfloat16, and centring after it in float32, which "
            "sentence-transformers' own modules cannot do; set model.dtype: float32, and embed again"
        )


def write_standard(encoder: SavedEncoder, manifest: Manifest, directory: str) -> None:
    """Write the model of an encoder that `check_standard` accepts into a local directory; its `encode` takes the texts
    of `ray_ggsm.encoders.rendered.row_texts`."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize

    config = encoder.description.model
    assert isinstance(config, TextConfig)
    with storage.local_copy(encoder.location) as place:
        centre_W = load_file(os.path.join(place, WEIGHTS))["centre_W"]
    W = len(centre_W)
    centring = Dense(W, W, activation_function=None, init_weight=torch.eye(W), init_bias=-centre_W)
    prompts = {PROMPT: config.prompt} if config.prompt else {}
    model = SentenceTransformer(
        modules=[*load_text_model(config), centring, Normalize()],
        prompts=prompts,
        default_prompt_name=PROMPT if prompts else None,
        device="cpu",
    )
    model.save(directory, create_model_card=False)
    rows = definition.read(encoder.location)
    if rows is not None:
        definition.write(rows, directory)
    manifest.write(directory)
