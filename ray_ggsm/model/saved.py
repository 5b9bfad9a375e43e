"""A saved encoder: a directory with everything needed to embed, but for the pretrained backbone it names.

    encoder.json               configs, template, mask recipe and its state in words, digests
    adapter_model.safetensors  LoRA, in PEFT's format, with adapter_config.json
    modules.safetensors        tags, adapters, tabular statistics, centres
    mask.safetensors           the recipe's state (GG-SM: importance per slot)
    tokenizer/                 the tokenizer

Loading refuses what does not fit: another backbone, template or tokenizer, a file that is not the one that was saved, a
step and mask that do not give the saved alpha. `encoder.json` is written last, so a directory without it is not an
encoder.
"""

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from ray_ggsm import masks, storage
from ray_ggsm.config import InputError, digest
from ray_ggsm.masks import Recipe, RecipeConfig, Tokens
from ray_ggsm.model.description import FILE, FORMAT, EncoderDescription, SavedEncoder
from ray_ggsm.model.encoder import ModelConfig, UserEncoder
from ray_ggsm.model.source import load_model, load_tokenizer, weights_digest
from ray_ggsm.model.template import Modality, Template

FILES = ("adapter_model.safetensors", "modules.safetensors", "mask.safetensors")


@dataclass(frozen=True)
class EncoderBundle:
    """An encoder with what its training fixed."""

    encoder: UserEncoder
    tokenizer: "transformers.PreTrainedTokenizerBase"
    mask: RecipeConfig
    recipe: Recipe
    step: int
    """Optimiser steps done."""
    feature_names: tuple[str, ...]
    event_encoder_digest: str
    backbone_digest: str

    @property
    def is_half_way(self) -> bool:
        """Whether training stopped before the mask had reached its inference form."""
        return self.recipe.alpha(self.step) < 1

    def embedding_weight(self, tokens: Tokens, finished: bool = False) -> Tensor:
        """Visibility for embedding: the inference mask or, where training stopped at alpha < 1, its last mask.

        `finished` asks for the inference mask in any case.
        """
        if self.is_half_way and not finished:
            return self.recipe.future_weight(tokens, self.step)
        return self.recipe.inference_weight(tokens)


def new_encoder(
    config: ModelConfig,
    mask: RecipeConfig,
    modalities: tuple[Modality, ...],
    feature_names: tuple[str, ...],
    event_width: int,
    event_encoder_digest: str,
    seed: int,
) -> EncoderBundle:
    """An untrained encoder; equal arguments give equal weights."""
    backbone = load_model(config.backbone, config.torch_dtype)
    backbone_digest = weights_digest(backbone)
    tokenizer = load_tokenizer(config.backbone)
    recipe = masks.build(mask)
    tabular_tokens = config.tabular_tokens if feature_names else 0
    template = Template(modalities, tabular_tokens, config.max_text_tokens, recipe.global_query)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = UserEncoder(config, template, len(feature_names), backbone, event_width, recipe)
    encoder.start_tags_from_words(tokenizer)
    return EncoderBundle(encoder, tokenizer, mask, recipe, 0, feature_names, event_encoder_digest, backbone_digest)


def save(bundle: EncoderBundle, location: str) -> None:
    """Write the encoder's directory, local or s3://."""
    from peft import get_peft_model_state_dict

    with tempfile.TemporaryDirectory() as directory:
        encoder = bundle.encoder
        encoder.backbone.peft_config["default"].save_pretrained(directory)
        _write(os.path.join(directory, "adapter_model.safetensors"), get_peft_model_state_dict(encoder.backbone))
        _write(os.path.join(directory, "modules.safetensors"), _modules(encoder))
        _write(os.path.join(directory, "mask.safetensors"), bundle.recipe.state_dict())
        bundle.tokenizer.save_pretrained(os.path.join(directory, "tokenizer"))
        description = _description(bundle, {name: _file_digest(directory, name) for name in FILES})
        storage.upload(directory, location)
    storage.write_json(storage.join(location, FILE), description.model_dump(mode="json"))


def load(location: str, device: torch.device) -> EncoderBundle:
    """Read an encoder's directory.

    Raises:
        InputError: there is no finished encoder, or its parts or its backbone do not fit each other.
    """
    description = SavedEncoder.read(location).description
    config, recipe = description.model, masks.build(description.mask)
    _expect(location, "alpha", description.alpha, recipe.alpha(description.step))
    template = Template(description.modalities, description.tabular_tokens, config.max_text_tokens, recipe.global_query)
    backbone = load_model(config.backbone, config.torch_dtype)
    _expect(location, "backbone weights", description.backbone_digest, weights_digest(backbone))
    _expect(location, "template", description.template_digest, _template_digest(template))
    features = description.feature_names
    encoder = UserEncoder(config, template, len(features), backbone, description.event_width, recipe)
    with storage.local_copy(location) as directory:
        for name in FILES:
            _expect(location, name, description.files[name], _file_digest(directory, name))
        restore(encoder, recipe, directory, location)
        place = os.path.join(directory, "tokenizer")
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    _expect(location, "tokenizer", description.tokenizer_digest, _tokenizer_digest(tokenizer))
    digests = description.event_encoder_digest, description.backbone_digest
    mask: RecipeConfig = description.mask
    return EncoderBundle(encoder.to(device).eval(), tokenizer, mask, recipe, description.step, features, *digests)


def restore(encoder: UserEncoder, recipe: Recipe, directory: str, location: str) -> None:
    """Load trained weights and recipe state from a local directory; `location` names it in errors."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    _load_modules(encoder, load_file(os.path.join(directory, "modules.safetensors")), location)
    lora = load_file(os.path.join(directory, "adapter_model.safetensors"))
    if lora.keys() != get_peft_model_state_dict(encoder.backbone).keys():
        raise InputError(f"{location}: adapter_model.safetensors does not fit the backbone's layers")
    set_peft_model_state_dict(encoder.backbone, lora)
    recipe.load_state_dict(load_file(os.path.join(directory, "mask.safetensors")))


def _description(bundle: EncoderBundle, files: dict[str, str]) -> EncoderDescription:
    encoder, template = bundle.encoder, bundle.encoder.template
    return EncoderDescription(
        format=FORMAT,
        model=encoder.config,
        mask=bundle.mask,
        step=bundle.step,
        alpha=bundle.recipe.alpha(bundle.step),
        modalities=template.modalities,
        tabular_tokens=template.tabular_tokens,
        feature_names=bundle.feature_names,
        event_width=encoder.event_width,
        width=encoder.width,
        backbone_digest=bundle.backbone_digest,
        event_encoder_digest=bundle.event_encoder_digest,
        template_digest=_template_digest(template),
        tokenizer_digest=_tokenizer_digest(bundle.tokenizer),
        files=files,
    )


def _template_digest(template: Template) -> str:
    return digest(list(template.slot_names), template.max_text_tokens)


def _tokenizer_digest(tokenizer: "transformers.PreTrainedTokenizerBase") -> str:
    """Of the vocabulary, the special tokens, and how a text is cut."""
    cut = tokenizer("Instruction: 7 Äpfel, 苹果!", add_special_tokens=False)["input_ids"]
    return digest(sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map, cut)


def _file_digest(directory: str, name: str) -> str:
    with open(os.path.join(directory, name), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _modules(encoder: UserEncoder) -> dict[str, Tensor]:
    return {name: t for name, t in encoder.state_dict().items() if not name.startswith("backbone.")}


def _load_modules(encoder: UserEncoder, state: dict[str, Tensor], location: str) -> None:
    # encoders saved before the learned mask had its name call it `opening`
    state = {re.sub(r"^opening\.", "learned_mask.", name): tensor for name, tensor in state.items()}
    expected = _modules(encoder)
    for name in sorted(expected.keys() ^ state.keys()):
        raise InputError(f"{location}: modules.safetensors: '{name}' is {'missing' if name in expected else 'unknown'}")
    for name, tensor in state.items():
        _expect(location, f"shape of '{name}'", tuple(expected[name].shape), tuple(tensor.shape))
    encoder.load_state_dict(state, strict=False)


def _write(path: str, tensors: dict[str, Tensor]) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def _expect(location: str, what: str, expected: Any, found: Any) -> None:
    if expected != found:
        raise InputError(
            f"{location}: the encoder's {what} should be {expected}, found {found}; it was trained with another"
        )
