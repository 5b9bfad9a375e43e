"""Look-alikes against a plain numpy ranking, and the sentences of wrong input."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.on_ray.lookalike import run
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table


@pytest.fixture
def search(finished: Experiment, tmp_path: Path) -> Callable[..., int]:
    """Runs the job on the shared table; the audience goes to `found.parquet`."""
    table, output = embed(Pipeline.of(finished)), str(tmp_path / "found.parquet")
    return lambda *arguments: run("", [table, *arguments, "--output", output])


def test_the_nearest_users_in_order(finished: Experiment, search: Callable, tmp_path: Path, capsys) -> None:
    users, vector_ND = open_table(embed(Pipeline.of(finished))).matrix()
    seeds = sorted(set(users.tolist()))[:3]
    (tmp_path / "seeds.txt").write_text("\n".join([*seeds, "nobody"]))
    assert search("--users-file", str(tmp_path / "seeds.txt"), "--k", "7") == 0
    assert "1 of 4 seed users are not in the table" in capsys.readouterr().out
    target_D = vector_ND[np.isin(users, seeds)].mean(axis=0)
    score_N = vector_ND @ target_D / np.linalg.norm(target_D)
    best: dict[str, float] = {}
    for user, score in zip(users.tolist(), score_N.tolist(), strict=True):
        if user not in seeds:
            best[user] = max(score, best.get(user, -2.0))
    expected = sorted(best, key=lambda user: -best[user])[:7]
    found = pq.read_table(tmp_path / "found.parquet").to_pydict()
    assert found["user_id"] == expected
    np.testing.assert_allclose(found["score"], [best[user] for user in expected], atol=1e-5)


def test_a_sentence(finished: Experiment, search: Callable, tmp_path: Path, capsys) -> None:
    place = Pipeline.of(finished).train
    assert search("--text", "buys item 3", "--encoder", place.path("encoder"), "--k", "5") == 0
    found = pq.read_table(tmp_path / "found.parquet").to_pydict()
    assert len(set(found["user_id"])) == 5
    assert found["score"] == sorted(found["score"], reverse=True)
    assert search("--text", "buys item 3", "--encoder", place.path("untrained")) == 2
    assert "the table was made by" in capsys.readouterr().err
    assert search("--text", "buys item 3") == 2
    assert "--text needs --encoder" in capsys.readouterr().err


def test_seeds_that_are_not_there(search: Callable, tmp_path: Path, capsys) -> None:
    (tmp_path / "seeds.txt").write_text("nobody\n")
    assert search("--users-file", str(tmp_path / "seeds.txt")) == 2
    assert "none of the 1 seed users has a row of 'default'" in capsys.readouterr().err
