"""A soft prompt for a label, from the job to a table that has it as an instruction."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from ray_ggsm.config import InputError, build
from ray_ggsm.experiment import Experiment
from ray_ggsm.model.config import PROMPT
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.on_ray.evaluate import evaluate
from ray_ggsm.on_ray.tune_prompt import TunePromptConfig, preview, tune_prompt
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table


def test_a_prompt_becomes_an_instruction(
    finished: Experiment, experiment: Callable, beside: Callable, tmp_path: Path
) -> None:
    file = tmp_path / "experiment.json"
    file.write_text(finished.model_dump_json())
    values = {
        "experiment": str(file), "label": "buys", "output": str(tmp_path / "prompts"),
        "tuning": {"steps": 3, "batch_size": 16, "vectors": 4},
    }  # fmt: skip
    config = build(TunePromptConfig, values, "test")
    prompt = tune_prompt(config)
    assert prompt.vector_PD.shape[0] == 4
    assert prompt.description.label == "buys"
    assert prompt.description.auc is not None
    (location,) = (tmp_path / "prompts").iterdir()
    assert str(location) in preview(config)
    before = (location / "prompt.json").stat().st_mtime_ns
    assert np.array_equal(tune_prompt(config).vector_PD, prompt.vector_PD)
    assert (location / "prompt.json").stat().st_mtime_ns == before, "a finished prompt is reused"
    other_mask = build(TunePromptConfig, values | {"settings": {"embedding.mask": "inference"}}, "test")
    assert preview(other_mask) != preview(config)

    instructions = {"plain": "", "buys": f"{PROMPT}{location}"}
    asked = experiment(output=beside("prepare-", "train-", "event_vectors"), embedding__instructions=instructions)
    pipeline = Pipeline.of(asked)
    embed(pipeline)
    rows = open_table(pipeline.embed.table).read(columns=["user_id", "as_of", "instruction", "embedding"]).to_pylist()
    plain = {(row["user_id"], row["as_of"]): row["embedding"] for row in rows if row["instruction"] == "plain"}
    buys = {(row["user_id"], row["as_of"]): row["embedding"] for row in rows if row["instruction"] == "buys"}
    assert plain.keys() == buys.keys()
    assert all(np.abs(np.subtract(plain[key], buys[key])).max() > 1e-4 for key in plain)

    labels = {"evaluation__instructions": {"buys": "buys", "busy": "plain"}}
    asked = experiment(output=asked.output, embedding__instructions=instructions, **labels)
    pipeline = Pipeline.of(asked)
    embed(pipeline.untrained)  # the encoder at step 0, which no prompt was fitted on, is asked nothing
    evaluate(pipeline)
    rows = open_table(pipeline.embed_untrained.table).read(columns=["user_id", "as_of", "instruction", "embedding"])
    by_instruction = {
        name: rows.filter(pc.field("instruction") == name).sort_by([("user_id", "ascending"), ("as_of", "ascending")])
        for name in instructions
    }
    assert by_instruction["plain"]["embedding"].to_pylist() == by_instruction["buys"]["embedding"].to_pylist()


def test_what_cannot_be_tuned_is_said(finished: Experiment, tmp_path: Path) -> None:
    file = tmp_path / "experiment.json"
    file.write_text(finished.model_dump_json())
    config = build(TunePromptConfig, {"experiment": str(file), "label": "flies", "output": str(tmp_path)}, "test")
    with pytest.raises(InputError, match=r"label: 'flies' is none of data\.labels \(buys, busy\)"):
        preview(config)
