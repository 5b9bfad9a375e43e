import pytest

from ray_ggsm.training import loop
from tests.helpers.encoders import nominal_peak


@pytest.fixture(autouse=True)
def _nominal_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trainer measures what the device can do, with large matrices; only `utilisation` depends on it."""
    monkeypatch.setattr(loop, "peak_flops", nominal_peak)
