"""The kind `supervised`: its loss against a loop, missing labels, and labels that do not belong to the rows."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ray_ggsm.config import InputError
from ray_ggsm.encoders.stream import StreamReader
from ray_ggsm.encoders.supervised import Supervised
from ray_ggsm.model.config import EventEncoderConfig
from ray_ggsm.model.kinds import SupervisedConfig
from ray_ggsm.model.modality import Modality
from ray_ggsm.training.pairs import Pairs, head
from ray_ggsm.training.workers import ALONE
from tests.helpers.encoders import WIDTH, lookup
from tests.helpers.rows import user_rows

MODALITIES = (Modality("bill", 7), Modality("app", 5))
READER = StreamReader(MODALITIES, 9, lookup)
CONFIG = SupervisedConfig(
    kind="supervised", event_encoder=EventEncoderConfig(name="unused"), newest=9, width=6, state=8, hidden=6, vector=8,
    labels=("a", "b"),
)  # fmt: skip


def labelled(n: int, **labels: list[bool | None]) -> pa.Table:
    rows = user_rows(n)
    for name, values in labels.items():
        rows = rows.append_column(f"label.{name}", pa.array(values, pa.bool_()))
    return rows


def test_the_loss_is_the_mean_over_labels_of_the_mean_over_rows_that_have_it() -> None:
    torch.manual_seed(0)
    model = Supervised(CONFIG, MODALITIES, WIDTH, 7).eval()
    rows = labelled(4, a=[True, None, False, True], b=[None, None, None, False])
    batch = model.training_batch(READER, rows, 0)
    loss, _ = model.loss(batch, ALONE, 0)
    p_BQ = torch.sigmoid(model.questions(model.states(batch.history))).detach().numpy()
    a = -np.mean([math.log(p_BQ[0, 0]), math.log(1 - p_BQ[2, 0]), math.log(p_BQ[3, 0])])
    assert loss.item() == pytest.approx((a - math.log(1 - p_BQ[3, 1])) / 2, rel=1e-5)


def test_zero_questions_give_ln_2_and_labels_that_nobody_has_count_nothing() -> None:
    model = Supervised(CONFIG, MODALITIES, WIDTH, 7).eval()
    torch.nn.init.zeros_(model.questions.weight)
    torch.nn.init.zeros_(model.questions.bias)
    rows = labelled(3, a=[True, False, False], b=[None, None, None])
    assert model.loss(model.training_batch(READER, rows, 0), ALONE, 0)[0].item() == pytest.approx(math.log(2))


def test_training_without_the_label_is_refused() -> None:
    model = Supervised(CONFIG, MODALITIES, WIDTH, 7)
    with pytest.raises(InputError, match="the label 'b' is not beside them"):
        model.training_batch(READER, labelled(2, a=[True, False]), 0)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Rows in two files of small row groups, and their labels, each row's own number parity."""
    rows = user_rows(30)
    for name in ("rows", "labels"):
        (tmp_path / name).mkdir()
    for i, part in enumerate((rows.slice(0, 17), rows.slice(17))):
        pq.write_table(part, tmp_path / "rows" / f"part-{i}.parquet", row_group_size=5)
        even = [int(user.split("-")[1]) % 2 == 0 for user in part["user_id"].to_pylist()]
        answers = part.select(["user_id", "as_of"]).append_column("even", pa.array(even))
        pq.write_table(answers, tmp_path / "labels" / f"part-{i}.parquet")
    return tmp_path


def test_every_row_has_its_own_labels(place: Path) -> None:
    rows, labels = str(place / "rows"), str(place / "labels")
    found = [Pairs(rows, 7, 0, labels=labels).batch(step) for step in range(8)]
    for table in (*found, head(rows, 20, labels)):
        even = [int(user.split("-")[1]) % 2 == 0 for user in table["user_id"].to_pylist()]
        assert table["label.even"].to_pylist() == even
    assert len(found[0]) == 7
    plain = Pairs(rows, 7, 0).batch(0)
    assert found[0].select(plain.column_names).equals(plain)


def test_labels_of_other_rows_are_refused(place: Path) -> None:
    file = place / "labels" / "part-1.parquet"
    answers = pq.read_table(file)
    pq.write_table(answers.take(pa.array(np.roll(np.arange(len(answers)), 1))), file)
    with pytest.raises(InputError, match=r"part-1\.parquet: these are not the labels of the rows"):
        head(str(place / "rows"), 30, str(place / "labels"))
