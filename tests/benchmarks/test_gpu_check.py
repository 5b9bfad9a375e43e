"""The GPU check itself, on the CPU: everything passes with few packages, and what is wrong is found."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from ray_ggsm.masks import MaskConfig, with_total_steps
from ray_ggsm.model import attention

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"
ABSENT = [
    "ray",
    "duckdb",
    "deltalake",
    "lightgbm",
    "sklearn",
    "s3fs",
    "tenacity",
    "tensorboardX",
    "sentence_transformers",
]
ENDLESS = ["--seconds", "1e9"]
RUN = """
import runpy, sys
sys.modules.update(dict.fromkeys({absent}))  # as if they were not installed
sys.argv, sys.path[0] = {argv}, {directory!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def check(monkeypatch, tmp_path) -> Callable[..., tuple[int, list[dict]]]:
    """Runs parts in this process; returns the exit code and the rows."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu_check

    def run(*parts: str) -> tuple[int, list[dict]]:
        file = tmp_path / "found.json"
        code = gpu_check.main(["--device", "cpu", *ENDLESS, "--json", str(file), "--only", *parts])
        return code, json.loads(file.read_text())["rows"]

    return run


@pytest.mark.timeout(1200)
def test_everything_passes_on_the_cpu_with_few_packages(tmp_path) -> None:
    file = tmp_path / "found.json"
    argv = [str(SCRIPT), "--device", "cpu", *ENDLESS, "--json", str(file)]
    run = RUN.format(absent=ABSENT, argv=argv, directory=str(SCRIPT.parent))
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    rows = json.loads(file.read_text())["rows"]
    made = {row["part"] for row in rows if row["passed"]}
    assert made == {"recipes", "padding", "out_of_memory", "memory", "embedding", "attention", "gradients", "training"}
    for row in rows:
        reasons = "on the CPU", "GPU only", "not installed"
        assert row["passed"] or any(reason in row["result"] for reason in reasons), row
    table = done.stdout.splitlines()
    assert "| claim | result | date | device | torch |" in table
    assert sum(line.startswith("| ") for line in table) == len(rows) + 1


def test_every_shipped_mask_is_checked(check) -> None:
    from gpu_checks import setting

    checked = [setting.recipe(name) for name in setting.RECIPES]
    for file in sorted((ROOT / "configs" / "journey" / "masks").glob("*.yaml")):
        mask = TypeAdapter(MaskConfig).validate_python(yaml.safe_load(file.read_text())["mask"])
        assert with_total_steps(mask, setting.STEPS) in checked, file.name


def test_a_wrong_bias_is_found(check, monkeypatch) -> None:
    right = attention.attention_bias
    monkeypatch.setattr(attention, "attention_bias", lambda *given: right(*given) * 0.5)
    monkeypatch.setattr("gpu_checks.attention.BACKENDS", ("eager", "sdpa"))
    code, rows = check("attention")
    assert code == 1
    wrong = [row for row in rows if row["claim"].startswith("attention, ")]
    assert len(wrong) == 6
    assert not any(row["passed"] for row in wrong)


def test_a_device_that_loses_the_mask_is_found(check, monkeypatch) -> None:
    """Only the device's side uses sdpa."""
    attend = attention.scaled_dot_product_attention
    monkeypatch.setattr(
        attention,
        "scaled_dot_product_attention",
        lambda *args, attn_mask, **rest: attend(*args, attn_mask=None, **rest),
    )
    for part in ("recipes", "padding"):
        monkeypatch.setattr(f"gpu_checks.{part}.RECIPES", ("ggsm",))
    monkeypatch.setattr("gpu_checks.gradients.CASES", (("ggsm", "sdpa", "float32"),))
    code, rows = check("recipes", "padding", "gradients")
    assert code == 1
    assert [row["passed"] for row in rows] == [False, False, False, True, False]  # flex needs no bias


def test_memory_that_grows_with_the_batch_is_found(check, monkeypatch) -> None:
    from gpu_checks import memory

    keep_all = partial(memory.trainer, tokens_per_micro_batch=128)
    monkeypatch.setattr(memory, "trainer", lambda *given, **rest: keep_all(*given, steps=rest["steps"]))
    code, rows = check("memory")
    assert code == 1
    assert rows[0]["passed"] is False
    assert rows[0]["numbers"][0]["value"] > 3


def test_an_error_is_a_failed_row_and_the_rest_goes_on(check, monkeypatch) -> None:
    def broken(*_):
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr("gpu_checks.attention._outputs", broken)
    monkeypatch.setattr("gpu_checks.out_of_memory.encoder", broken)
    code, rows = check("attention", "out_of_memory")
    assert code == 1
    failed = [row for row in rows if row["passed"] is False]
    assert len(failed) == 7
    assert all("illegal memory access" in row["result"] for row in failed)
    assert any(row["passed"] for row in rows)


def test_no_check_begins_when_time_is_up(check, tmp_path) -> None:
    import gpu_check

    file = tmp_path / "late.json"
    assert gpu_check.main(["--device", "cpu", "--seconds", "0", "--only", "recipes", "--json", str(file)]) == 0
    assert {row["result"] for row in json.loads(file.read_text())["rows"]} == {"no time was left"}
