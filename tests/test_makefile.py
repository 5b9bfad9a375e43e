"""The commands of every make target are sound shell, with and without bfloat16."""

import shutil
import subprocess

import pytest

from tests.helpers import ROOT

TARGETS = ["setup", "quickstart", "nights", "test", "test-fast", "test-newest", "lint", "format", "hooks", "clean"]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("float32", ["", "--set model.dtype=float32"])
@pytest.mark.parametrize("target", TARGETS)
def test_commands(target: str, float32: str) -> None:
    shown = subprocess.run(
        ["make", "--dry-run", "--always-make", target, f"FLOAT32={float32}"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    subprocess.run(["sh", "-n", "-c", shown.stdout], capture_output=True, text=True, check=True)
    if target == "nights" and float32:
        assert "--set 'settings={model.dtype: float32, model.event_encoder.dtype: float32}'" in shown.stdout
