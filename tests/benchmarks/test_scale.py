"""The arithmetic of benchmarks/scale.py, against numbers that were computed by hand."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

SPEC = importlib.util.spec_from_file_location("scale", ROOT / "benchmarks" / "scale.py")
assert SPEC is not None
assert SPEC.loader is not None
scale = sys.modules["scale"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(scale)

MEASURED = scale.Measured(
    night_of_bare=0.5, two_workers=1.8, requests_per_bucket=12, requests_per_night=40, start_seconds=36,
    row_cpu_seconds=1e-3, log_bytes_per_file=500,
)  # fmt: skip
ASKED = scale.Asked(
    users=3.6e6, gpus=1, users_per_second=1000, changed=0.25, width=100, bytes_per_value=4, bytes_per_row=2000,
    rows_per_bucket=10_000, retention_days=9, bandwidth=1, cpus_per_gpu=10, gpu_price=2, cpu_price=0.1, get_price=0.01,
    put_price=0.1, storage_price=0.02,
)  # fmt: skip


def test_a_full_night_of_one_gpu() -> None:
    found = scale.night(MEASURED, ASKED, 1)
    assert found.encode_hours == pytest.approx(2)  # 3.6 M users at 1000 * .5 per second: 7,200 s
    assert found.rows_hours == pytest.approx(0.11)  # 3,600 processor seconds on 10 cores: 360 s, and 36 s to start
    assert found.move_hours == pytest.approx((3 * 7.2e9 + 2 * 1.44e9) / 1e9 / 3600)  # 24.48 GB at 1 GB/s
    assert found.hours == pytest.approx(2.11)
    assert found.requests == 40 + 12 * 360  # 360 buckets
    # 2.11 h of 2 + 10 * .1 dollars; 4,360 requests, of which 720 puts at .1 and 3,640 gets at .01 a thousand
    assert found.dollars == pytest.approx(2.11 * 3 + 0.072 + 0.0364)


def test_more_gpus_and_fewer_users() -> None:
    found = scale.night(MEASURED, dataclasses.replace(ASKED, gpus=16), 0.25)
    assert found.encode_hours == pytest.approx(0.25 * 2 / 16 / 0.9)  # the second worker brings .8: .9 each
    assert found.move_hours == pytest.approx((0.25 * 3 * 7.2e9 + 2 * 1.44e9) / 2e9 / 3600)  # two nodes


def test_where_data_are_the_bottleneck() -> None:
    found = scale.night(MEASURED, dataclasses.replace(ASKED, bandwidth=1e-3), 1)
    assert found.hours == pytest.approx(24_480 / 3600 + 0.11)


def test_storage() -> None:
    assert scale.stored_terabytes(ASKED) == pytest.approx(0.0144)  # 1.44 GB, ten times


def test_at_a_limit_it_is_reached() -> None:
    """A night at so many users takes the window, and no less users do."""
    limits = dict(scale.limits(MEASURED, ASKED, window=4))
    (users,) = (n for what, n in limits.items() if what.startswith("a night of 4 h"))
    assert users == pytest.approx(3.6e6 * 3.99 / 0.525)  # .5 h of encoding and .025 h of rows, beside 36 s
    assert scale.night(MEASURED, dataclasses.replace(ASKED, users=users), 0.25).hours == pytest.approx(4)
    (users,) = (n for what, n in limits.items() if "log of 100 MB" in what)
    assert users == 200_000 * 10_000  # files of 500 bytes in the log, a file per bucket
    (users,) = (n for what, n in limits.items() if "pieces of the shuffle" in what)
    assert users == 1000 * 131_072


def test_measured_numbers_have_sources_and_can_be_replaced(tmp_path: Path) -> None:
    written = json.loads(scale.MEASURED.read_text())
    assert all(entry["source"] for entry in written.values())
    assert written.keys() == {field.name for field in dataclasses.fields(scale.Measured)}
    (tmp_path / "night.json").write_text('{"start_seconds": 99}')
    changed = scale.Measured.read(scale.MEASURED, tmp_path / "night.json")
    assert changed == dataclasses.replace(scale.Measured.read(scale.MEASURED), start_seconds=99)


def test_flops_are_those_of_two_per_weight_and_token() -> None:
    """A decoder of one layer, counted by its matrices: q, k, v, o; gate, up, down; and the products with the keys."""
    model = scale.Model(layers=1, width=8, inner=16, heads=2, key_heads=1, head_width=4)
    weights = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16
    assert model.flops(10) == 2 * 10 * weights + 2 * 2 * (2 * 4) * 10 * 10


def test_the_page_is_what_the_script_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["scale.py"])
    scale.main()
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert set(printed) <= set((ROOT / "docs" / "scale.md").read_text().splitlines())
