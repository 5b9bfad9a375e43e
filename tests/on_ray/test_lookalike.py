"""Look-alikes against a plain numpy ranking, and the sentences of wrong input."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from ray_ggsm.cli.jobs import JOBS
from ray_ggsm.cli.main import run
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table


@pytest.fixture
def search(finished: Experiment, tmp_path: Path) -> Callable[..., int]:
    """Runs the job on the shared table; the audience goes to `found.parquet`."""
    table, file = embed(Pipeline.of(finished)), tmp_path / "config.yaml"

    def search(*arguments: str, **values: object) -> int:
        file.write_text(yaml.safe_dump({"table": table, "output": str(tmp_path / "found.parquet"), **values}))
        return run(JOBS["lookalike"], ["--config", str(file), *arguments])

    return search


def test_the_nearest_users_in_order(finished: Experiment, search: Callable, tmp_path: Path, capsys) -> None:
    users, vector_ND = open_table(embed(Pipeline.of(finished))).matrix()
    seeds = sorted(set(users.tolist()))[:3]
    (tmp_path / "seeds.txt").write_text("\n".join([*seeds, "nobody"]))
    assert search("--dry-run", users_file=str(tmp_path / "seeds.txt"), k=7) == 0
    assert "lookalike: 7 users of " in capsys.readouterr().out
    assert not (tmp_path / "found.parquet").exists()
    assert search(users_file=str(tmp_path / "seeds.txt"), k=7) == 0
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
    stage = Pipeline.of(finished).train
    assert search(text="buys item 3", encoder=stage.encoder, k=5) == 0
    found = pq.read_table(tmp_path / "found.parquet").to_pydict()
    assert len(set(found["user_id"])) == 5
    assert found["score"] == sorted(found["score"], reverse=True)
    assert search(text="buys item 3", encoder=stage.untrained) == 2
    assert "the table was made by" in capsys.readouterr().err
    assert search(text="buys item 3") == 2
    assert "encoder: `text` needs the saved encoder that made the table" in capsys.readouterr().err
    assert search(text="buys item 3", users_file="seeds.txt") == 2
    assert "give either users_file or text" in capsys.readouterr().err


def test_seeds_that_are_not_there(search: Callable, tmp_path: Path, capsys) -> None:
    (tmp_path / "seeds.txt").write_text("nobody\n")
    assert search(users_file=str(tmp_path / "seeds.txt")) == 2
    assert "none of the 1 seed users has a row of 'default'" in capsys.readouterr().err
