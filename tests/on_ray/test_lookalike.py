"""Look-alikes against a plain numpy ranking, and the sentences of wrong input."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.on_ray.lookalike import LookalikeConfig, lookalike, preview
from ray_ggsm.on_ray.train import train
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table
from ray_ggsm.tables.maintenance import forget
from ray_ggsm.tables.tagging import tag
from tests.helpers.tables import put, rows


@pytest.fixture
def config(finished: Experiment, tmp_path: Path) -> Callable[..., LookalikeConfig]:
    """Builds a search in the shared table; the audience goes to `found.parquet`."""
    table, output = embed(Pipeline.of(finished)), str(tmp_path / "found.parquet")
    return lambda **settings: LookalikeConfig(table=table, output=output, **settings)


def test_the_nearest_users_in_order(finished: Experiment, config: Callable, tmp_path: Path, capsys) -> None:
    users, vector_ND = open_table(embed(Pipeline.of(finished))).matrix()
    seeds = sorted(set(users.tolist()))[:3]
    (tmp_path / "seeds.txt").write_text("\n".join([*seeds, "nobody"]))
    seeded = config(users_file=str(tmp_path / "seeds.txt"), k=7)
    assert preview(seeded).endswith("4 seed users")
    lookalike(seeded)
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


def test_an_earlier_version_a_tag_and_the_forgotten(tmp_path: Path) -> None:
    location, key = str(tmp_path / "users"), b"k" * 32
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "seeds.txt").write_text("u0\n")
    put(location, rows(9, instruction="default"), "r0")
    put(location, rows(3, seed=1, instruction="default"), "r1")
    tag(location, "first", 0)
    forget(location, ["u5"], key)
    search = {"table": location, "users_file": str(tmp_path / "seeds.txt"), "output": str(tmp_path / "found.parquet")}

    def audience(**settings) -> set[str]:
        return set(lookalike(LookalikeConfig(**search, **settings))["user_id"].to_pylist())

    with pytest.raises(InputError, match="found no key"):
        preview(LookalikeConfig(**search, version=0))
    others = {f"u{i}" for i in range(1, 9)} - {"u5"}
    assert audience(version="first") == others
    assert audience(version=0, forgotten_key_file=str(tmp_path / "key")) == others
    assert audience() == {"u1", "u2"}
    (tmp_path / "seeds.txt").write_text("u5\n")
    with pytest.raises(InputError, match="none of the 1 seed users"):
        audience(version=0, forgotten_key_file=str(tmp_path / "key"))


def test_a_sentence(experiment: Callable, beside: Callable, tmp_path: Path) -> None:
    output = beside("prepare", "event_vectors")
    pipeline = Pipeline.of(experiment(output=output, training__answer={"form": "text"}, embedding__splits=["test"]))
    train(pipeline)
    search = {"table": embed(pipeline), "output": str(tmp_path / "found.parquet"), "text": "buys item 3"}
    lookalike(LookalikeConfig(**search, encoder=pipeline.train.encoder, k=5))
    found = pq.read_table(tmp_path / "found.parquet").to_pydict()
    assert len(set(found["user_id"])) == 5
    assert found["score"] == sorted(found["score"], reverse=True)
    (tmp_path / "found.parquet").unlink()
    with pytest.raises(InputError, match="no row of the instruction 'defualt'"):
        lookalike(LookalikeConfig(**search, encoder=pipeline.train.encoder, instruction="defualt"))
    assert not (tmp_path / "found.parquet").exists()


def test_a_sentence_needs_an_encoder_of_texts(finished: Experiment, config: Callable) -> None:
    place = Pipeline.of(finished).train
    with pytest.raises(InputError, match=r"no text was an answer .* training\.answer\.form: text"):
        lookalike(config(text="buys item 3", encoder=place.encoder))
    with pytest.raises(InputError, match="the table was made by"):
        lookalike(config(text="buys item 3", encoder=place.untrained))
    with pytest.raises(InputError, match="encoder: `text` needs the saved encoder"):
        lookalike(config(text="buys item 3"))
    with pytest.raises(ValueError, match="give either users_file or text"):
        config()


def test_seeds_that_are_not_there(config: Callable, tmp_path: Path) -> None:
    (tmp_path / "seeds.txt").write_text("nobody\n")
    with pytest.raises(InputError, match="none of the 1 seed users has a row of 'default'"):
        lookalike(config(users_file=str(tmp_path / "seeds.txt")))
