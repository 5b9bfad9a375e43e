"""Directories that hold no saved encoder are refused with a sentence."""

from pathlib import Path

import pytest

from ray_ggsm.config import InputError
from ray_ggsm.model.description import SavedEncoder


@pytest.mark.parametrize("content", ['{"model_type": "llama"}', "not JSON", '{"format": 2}', "[1]", "2"])
def test_another_file_of_this_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "encoder.json").write_text(content)
    with pytest.raises(InputError, match=r"encoder\.json: this does not describe a saved encoder; give the directory"):
        SavedEncoder.read(str(tmp_path))


def test_another_format(tmp_path: Path) -> None:
    (tmp_path / "encoder.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="expected an encoder of format 2, found 1"):
        SavedEncoder.read(str(tmp_path))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no saved encoder here"):
        SavedEncoder.read(str(tmp_path))
