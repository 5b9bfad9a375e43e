"""The centres that training freezes, and what an encoder says of its answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_ggsm.config import InputError
from ray_ggsm.masks.scheduler import SchedulerConfig
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.training.answers import draw_answers
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.contrastive import Contrastive
from ray_ggsm.training.pairs import head
from ray_ggsm.training.questions import QuestionsConfig
from ray_ggsm.training.targets import TargetsConfig
from ray_ggsm.training.workers import ALONE
from tests.helpers.encoders import encoder_on, lookup
from tests.helpers.rows import user_rows


def learner(tiny_decoder: str, asked: pa.Table | None, **training: Any) -> Contrastive:
    config = TrainingConfig(**{"steps": 1, "batch_size": 12, "centre_rows": 20, **training})
    bundle = encoder_on(tiny_decoder, SchedulerConfig(recipe="scheduler", total_steps=1))
    collator = Collator(bundle.encoder.template, bundle.tokenizer, lookup)
    rows = user_rows(30)
    return Contrastive(bundle, collator, config, ALONE, 0, head=rows, asked=asked, future_days=80)


def questions(users: int) -> pa.Table:
    rows = user_rows(users, 1).append_column("query", pa.array(["what next?"] * users))
    return rows.append_column("answer", pa.array([f"bread, {n} times" for n in range(users)]))


def states(trained: Contrastive, rows: pa.Table) -> np.ndarray:
    """The answer tower's states, row by row."""
    found = []
    with torch.no_grad():
        for n in range(len(rows)):
            answers = draw_answers(rows.slice(n, 1), trained.collator, trained.config.answer, trained.seed)
            batch = answers.sequences.batch(np.array([0]))
            weight = trained.bundle.embedding_weight(batch.layout.tokens)
            found.append(trained.encoder(batch, weight)[0].double().numpy())
    return np.array(found)


def test_a_sentence_is_centred_as_training_centres_it(tiny_decoder: str) -> None:
    """A quarter of each batch are texts: so is a quarter of what the centre of answers is made of."""
    asked = questions(25)
    trained = learner(tiny_decoder, asked, questions=QuestionsConfig(output="unused", share=0.25))
    trained.prepare()
    expected_D = 0.75 * states(trained, trained.head.slice(0, 20)).mean(axis=0)
    expected_D += 0.25 * states(trained, asked.slice(0, 20)).mean(axis=0)
    assert trained.encoder.centre_answer_D.numpy() == pytest.approx(expected_D, abs=1e-5)
    alone = learner(tiny_decoder, None)
    alone.prepare()
    assert torch.equal(alone.encoder.centre_user_D, trained.encoder.centre_user_D)
    assert (alone.encoder.centre_answer_D - trained.encoder.centre_answer_D).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("steps", "training", "expected"),
    [
        (1, {"questions": QuestionsConfig(output="unused")}, True),
        (0, {"questions": QuestionsConfig(output="unused")}, False),
        (1, {}, False),
        (1, {"answer": {"form": "text"}, "contrast_weight": 0.0, "targets": TargetsConfig(horizons_days=(30,))}, False),
    ],
)
def test_only_an_encoder_that_learned_from_texts_says_so(
    tiny_decoder: str, tmp_path: Path, steps: int, training: dict[str, Any], expected: bool
) -> None:
    trained = learner(tiny_decoder, None, **training)
    for _ in range(steps):
        trained.advance()
    trained.save_encoder(str(tmp_path))
    assert SavedEncoder.read(str(tmp_path)).description.text_answers is expected


def test_rows_that_are_gone_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no rows; were they moved or removed"):
        head(str(tmp_path), 3)
