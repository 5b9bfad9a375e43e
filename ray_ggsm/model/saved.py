"""Saves and loads encoders. The directory of an encoder has everything needed to embed, except the pretrained backbone,
which `ray_ggsm.model.pretrained` can add:

    encoder.json               configs, template, mask recipe and its progress, digests (`ray_ggsm.model.description`)
    adapter_model.safetensors  LoRA, in PEFT's format, with adapter_config.json; or the trained weights of the backbone
    modules.safetensors        tags, adapters, tabular statistics, centres, learned mask
    mask.safetensors           the recipe's state (GG-SM: importance per slot)
    tokenizer/                 the tokenizer

Loading refuses parts that do not fit: another backbone, template or tokenizer, a file that changed since it was saved,
a step that does not give the saved alpha. `encoder.json` is written last, so a directory without it is
unfinished.
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

from ray_ggsm import storage
from ray_ggsm.config import InputError, digest
from ray_ggsm.masks import MaskConfig, Recipe, Tokens
from ray_ggsm.model.backbone import load_trained_state, trained_state
from ray_ggsm.model.config import FusionConfig, ModelConfig
from ray_ggsm.model.description import FILE, FORMAT, EncoderDescription, SavedEncoder
from ray_ggsm.model.encoder import UserEncoder
from ray_ggsm.model.modality import Modality
from ray_ggsm.model.pretrained import packed
from ray_ggsm.model.source import load_model, load_tokenizer, weights_digest
from ray_ggsm.model.template import Template

FILES = ("adapter_model.safetensors", "modules.safetensors", "mask.safetensors")


@dataclass(frozen=True)
class EncoderBundle:
    """An encoder with its tokenizer, its mask recipe and the step that training reached."""

    encoder: UserEncoder
    tokenizer: "transformers.PreTrainedTokenizerBase"
    mask: MaskConfig
    recipe: Recipe
    """The recipe of `mask`, with its state."""
    step: int
    """Number of optimiser steps done; 0 for an untrained encoder."""
    feature_names: tuple[str, ...]
    """Tabular features, in order."""
    event_encoder_digest: str
    """Digest of the event encoder whose vectors the encoder reads."""
    backbone_digest: str
    """Digest of the pretrained weights."""
    text_answers: bool | None = None
    """Whether it has learned from texts as answers; None: unknown."""

    @property
    def is_half_way(self) -> bool:
        """Whether training stopped before the mask had reached its inference form."""
        return self.recipe.alpha(self.step) < 1

    def embedding_weight(self, tokens: Tokens, finished: bool = False) -> Tensor:
        """Visibility of future keys for embedding, shapes as in `Recipe.future_weight`.

        It is the inference mask or, if training stopped at alpha < 1, the mask at that step. With `finished`, it is the
        inference mask in both cases; so it is at step 0, where an encoder is looked at as what the trained one is
        compared with, under the same mask.
        """
        if self.is_half_way and self.step > 0 and not finished:
            return self.recipe.future_weight(tokens, self.step)
        return self.recipe.inference_weight(tokens)


def new_encoder(
    config: ModelConfig,
    mask: MaskConfig,
    modalities: tuple[Modality, ...],
    feature_names: tuple[str, ...],
    event_width: int,
    event_encoder_digest: str,
    seed: int,
) -> EncoderBundle:
    """An untrained encoder; equal arguments give equal weights.

    Args:
        config: settings of the encoder.
        mask: the mask recipe, with T_total filled in (`ray_ggsm.masks.with_total_steps`).
        modalities: event sequences in the input, in order.
        feature_names: tabular features, in order; empty without features.
        event_width: width of the event vectors.
        event_encoder_digest: digest of the event encoder.
        seed: seed of the new weights.

    Raises:
        InputError: the backbone cannot be loaded, or its attention cannot be opened.
    """
    if config.backbone.weights == "random" and config.backbone.seed is None:
        config = config.model_copy(update={"backbone": config.backbone.model_copy(update={"seed": seed})})
    backbone = load_model(config.backbone, config.backbone_dtype)
    backbone_digest = weights_digest(backbone)
    tokenizer = load_tokenizer(config.backbone)
    recipe = mask.build()
    template = _template(config, modalities, config.tabular_tokens if feature_names else 0, recipe)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = UserEncoder(config, template, len(feature_names), backbone, event_width, recipe)
    _start_tags_from_words(encoder, tokenizer)
    return EncoderBundle(encoder, tokenizer, mask, recipe, 0, feature_names, event_encoder_digest, backbone_digest)


def _start_tags_from_words(encoder: UserEncoder, tokenizer: "transformers.PreTrainedTokenizerBase") -> None:
    """Initialise each tag's embedding with the mean embedding of the word pieces of its text."""
    words = encoder.backbone.get_input_embeddings().weight
    with torch.no_grad():
        for row, tag in enumerate(encoder.template.tags):
            ids = tokenizer(tag, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            encoder.tags.weight[row] = words[ids].float().mean(dim=0)


def save(bundle: EncoderBundle, location: str) -> None:
    """Write the directory of an encoder, local or s3://."""
    with tempfile.TemporaryDirectory() as directory:
        encoder = bundle.encoder
        if encoder.config.backbone.trained == "lora":
            encoder.backbone.peft_config["default"].save_pretrained(directory)
        _write(os.path.join(directory, "adapter_model.safetensors"), trained_state(encoder.backbone, encoder.config))
        _write(os.path.join(directory, "modules.safetensors"), _modules(encoder))
        _write(os.path.join(directory, "mask.safetensors"), bundle.recipe.state_dict())
        bundle.tokenizer.save_pretrained(os.path.join(directory, "tokenizer"))
        description = _description(bundle, {name: file_digest(directory, name) for name in FILES})
        storage.upload(directory, location)
    values = description.model_dump(mode="json")
    del values["model"]["kind"]  # as before there were others: digests of encoders stay the same
    fusion = bundle.encoder.config.fusion
    if fusion is not None:
        for name in ("columns", "bag"):
            if getattr(fusion, name) == FusionConfig.model_fields[name].default:
                del values["model"]["fusion"][name]  # as before there was a choice; so below
    if not values["model"]["backbone"]["seed"]:
        del values["model"]["backbone"]["seed"]
    for name in ("adapter_layers", "summary_tokens", "projection"):
        if values["model"][name] == ModelConfig.model_fields[name].default:
            del values["model"][name]
    storage.write_json(storage.join(location, FILE), values)


def load(location: str, device: torch.device) -> EncoderBundle:
    """Read the directory of an encoder, local or s3://.

    Raises:
        InputError: the directory has no finished encoder, or its parts and the backbone do not fit each other.
    """
    description = SavedEncoder.read(location).description
    config, mask = description.model, description.mask
    if not isinstance(config, ModelConfig) or mask is None or description.backbone_digest is None:
        raise InputError(f"{location}: expected a language model, found an encoder of the kind {config.kind}")
    recipe = mask.build()
    _expect(location, "alpha", description.alpha, recipe.alpha(description.step))
    template = _template(config, description.modalities, description.tabular_tokens, recipe)
    features = description.feature_names
    with storage.local_copy(location) as directory:
        with packed(directory, "backbone") as weights:
            backbone = load_model(config.backbone, config.backbone_dtype, weights)
        _expect(location, "backbone weights", description.backbone_digest, weights_digest(backbone))
        _expect(location, "template", description.template_digest, _template_digest(template))
        encoder = UserEncoder(config, template, len(features), backbone, description.event_width, recipe)
        for name in FILES:
            _expect(location, name, description.files[name], file_digest(directory, name))
        restore(encoder, recipe, directory, location)
        place = os.path.join(directory, "tokenizer")
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    _expect(location, "tokenizer", description.tokenizer_digest, _tokenizer_digest(tokenizer))
    return EncoderBundle(
        encoder=encoder.to(device).eval(),
        tokenizer=tokenizer,
        mask=mask,
        recipe=recipe,
        step=description.step,
        feature_names=features,
        event_encoder_digest=description.event_encoder_digest,
        backbone_digest=description.backbone_digest,
        text_answers=description.text_answers,
    )


def restore(encoder: UserEncoder, recipe: Recipe, directory: str, location: str) -> None:
    """Load trained weights and the recipe's state from a local directory, in place; errors name it `location`.

    Raises:
        InputError: the weights do not fit the encoder.
    """
    _load_modules(encoder, load_file(os.path.join(directory, "modules.safetensors")), location)
    trained = load_file(os.path.join(directory, "adapter_model.safetensors"))
    if trained.keys() != trained_state(encoder.backbone, encoder.config).keys():
        raise InputError(f"{location}: adapter_model.safetensors does not fit the backbone's layers")
    load_trained_state(encoder.backbone, encoder.config, trained)
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
        width=encoder.vector_width,
        backbone_digest=bundle.backbone_digest,
        event_encoder_digest=bundle.event_encoder_digest,
        template_digest=_template_digest(template),
        tokenizer_digest=_tokenizer_digest(bundle.tokenizer),
        text_answers=bundle.text_answers,
        files=files,
    )


def _template(config: ModelConfig, modalities: tuple[Modality, ...], tabular_tokens: int, recipe: Recipe) -> Template:
    global_query = recipe.global_query is not None
    bag = config.fusion is not None and config.fusion.bag is not None
    return Template(modalities, tabular_tokens, config.max_text_tokens, global_query, config.summary_tokens, bag)


def _template_digest(template: Template) -> str:
    return digest(list(template.slot_names), template.max_text_tokens)


def _tokenizer_digest(tokenizer: "transformers.PreTrainedTokenizerBase") -> str:
    """Digest of the vocabulary, the special tokens, and the tokens of a sample text."""
    cut = tokenizer("Instruction: 7 Äpfel, 苹果!", add_special_tokens=False)["input_ids"]
    return digest(sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map, cut)


def file_digest(directory: str, name: str) -> str:
    """Digest of the bytes of a file in a local directory."""
    with open(os.path.join(directory, name), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _modules(encoder: UserEncoder) -> dict[str, Tensor]:
    return {name: t for name, t in encoder.state_dict().items() if not name.startswith("backbone.")}


def _load_modules(encoder: UserEncoder, state: dict[str, Tensor], location: str) -> None:
    # as older encoders call them
    state = {re.sub(r"^opening\.", "learned_mask.", name): tensor for name, tensor in state.items()}
    state = {re.sub(r"^scale_user_2$", "scale_user_S", name): tensor for name, tensor in state.items()}
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
            f"{location}: expected {what} {expected}, found {found}; the encoder was saved with another one"
        )
