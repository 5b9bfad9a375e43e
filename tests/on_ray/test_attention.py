"""The attention job on the shared run: the same numbers as without Ray, readings that differ where they should."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.evaluation.attention import AttentionMeans, attention_of
from ray_ggsm.evaluation.pages.attention_figures import attention_figure
from ray_ggsm.model import event_vectors as store
from ray_ggsm.model import saved
from ray_ggsm.on_ray.attention import Readings, attention, attention_picture, result_file
from ray_ggsm.on_ray.train import train
from ray_ggsm.stages import Pipeline

ROWS = 7


@pytest.fixture
def sample(beside: Callable, experiment: Callable) -> Callable[..., Pipeline]:
    """A pipeline whose prepared rows are those of the shared run, with changes."""
    output = beside("prepare", "train", "event_vectors")
    return lambda **paths: Pipeline.of(experiment(output=output, attention__rows=ROWS, **paths))


def means(result: Readings) -> dict[str, AttentionMeans]:
    return {name: reading.means for name, reading in result.readings.items()}


def test_the_job_against_the_same_rows_without_ray(sample: Callable, capsys, tmp_path: Path) -> None:
    place = sample()
    result = attention(place)
    assert json.loads(Path(result_file(place)).read_text()) == result.model_dump(mode="json")
    found = means(result)
    files = storage.list_files(place.prepare.rows("test"), ".parquet")
    rows = pq.read_table(files).slice(0, ROWS)
    bundle = saved.load(place.train.path("encoder"), torch.device("cpu"))
    location = storage.join(place.event_vectors, bundle.event_encoder_digest)
    vectors = store.find(location, str(tmp_path / "cache")).open()
    expected = attention_of(bundle, vectors, rows, bundle.embedding_weight)
    for name in ("future_share", "distance", "entropy", "relative_entropy", "uniform_future_share"):
        np.testing.assert_allclose(getattr(found["after"], name), getattr(expected, name), atol=1e-5)
    assert found["after"].rows == ROWS
    table = capsys.readouterr().out
    assert f"means over {ROWS} rows" in table
    assert f"attention: {result_file(place)}" in table


def test_the_readings_tell_the_mask_from_the_weights(sample: Callable) -> None:
    """GG-SM begins with weights of one half, and ends bidirectional."""
    result = attention(place := sample())
    stands = {name: (reading.step, reading.alpha) for name, reading in result.readings.items()}
    assert stands == {"before": (0, 0.0), "opened": (6, 1.0), "after": (6, 1.0)}
    before, opened, after = means(result).values()
    assert attention_picture(place) == attention_figure(opened, after), "both under one mask"
    assert np.all(np.array(before.uniform_future_share) < opened.uniform_future_share)
    assert opened.uniform_future_share == after.uniform_future_share
    assert opened.future_share != after.future_share
    assert np.all(np.array(before.future_share)[0] < np.array(opened.future_share)[0])


def test_a_finished_result_is_reused(sample: Callable) -> None:
    experiment = sample()
    first = attention(experiment)
    file = Path(result_file(experiment))
    before = file.stat().st_mtime_ns
    assert attention(experiment) == first
    assert file.stat().st_mtime_ns == before
    assert result_file(sample(attention__split="probe")) != str(file)
    assert sample().stages == sample(attention__split="probe").stages


def test_an_oracle_changes_nothing(sample: Callable) -> None:
    oracle = sample(mask={"recipe": "oracle"})
    train(oracle)
    before, opened, after = means(attention(oracle)).values()
    assert before == opened == after
    assert not np.any(after.future_share)


def test_mistakes(sample: Callable) -> None:
    with pytest.raises(InputError, match=r"run jobs/train\.py"):
        attention(sample(training__steps=5))
