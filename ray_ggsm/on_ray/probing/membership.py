"""The rows of the privacy card: those of the train split, and those of users whom the encoder has never seen."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.config import InputError
from ray_ggsm.data.rows import row_keys
from ray_ggsm.evaluation.alignment import Aligned, align_all
from ray_ggsm.evaluation.config import PrivacyConfig
from ray_ggsm.evaluation.privacy import TRAINED
from ray_ggsm.experiment import Experiment
from ray_ggsm.hashing import hash64
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table


def check_privacy(experiment: Experiment, privacy: PrivacyConfig) -> None:
    """Refuse splits whose rows show no memorisation.

    Raises:
        InputError: a split is missing, is not embedded, has users that are trained on, or other moments.
    """
    splits, train = experiment.data.splits, experiment.data.train_split
    key = "evaluation.privacy.others"
    if privacy.others not in splits:
        raise InputError(f"{key}: there is no split '{privacy.others}' in data.splits; it has {', '.join(splits)}")
    trained, others = splits[train], splits[privacy.others]
    if (trained.users, others.users) != ("train", "test"):
        raise InputError(
            f"{key}: '{train}' needs `users: train` and '{privacy.others}' `users: test`, so that nobody is in both; "
            f"found {trained.users} and {others.users}"
        )
    if set(trained.cutoffs) != set(others.cutoffs):
        raise InputError(
            f"{key}: '{privacy.others}' needs the cutoffs of '{train}', {list(trained.cutoffs)}, or moments would tell "
            f"the groups apart; found {list(others.cutoffs)}"
        )
    if missing := [name for name in (train, privacy.others) if name not in experiment.embedded_splits]:
        raise InputError(f"{key}: the split '{missing[0]}' has no vectors; add it to embedding.splits")


def privacy_rows(pipeline: Pipeline, privacy: PrivacyConfig) -> tuple[Aligned, Aligned]:
    """Both groups' rows with the vectors of the encoder, and with those of the encoder at step 0.

    Raises:
        InputError: a row has no vector, or a user is in both groups.
    """
    groups = {pipeline.experiment.data.train_split: True, privacy.others: False}
    keys = [_some(row_keys(pipeline.prepare.rows(split)), privacy.users) for split in groups]
    if shared := len(np.intersect1d(*(table["user_id"].to_numpy().astype(str) for table in keys))):
        raise InputError(f"evaluation.privacy: {shared} users are in both {' and '.join(groups)}")
    columns = zip(keys, groups.values(), strict=True)
    labels = pa.concat_tables([table.append_column(TRAINED, pa.repeat(is_in, len(table))) for table, is_in in columns])
    tables = {
        name: (open_table(each.embed.require().table).read(columns=["user_id", "as_of", "embedding"]), "embedding")
        for name, each in {"encoder": pipeline, "untrained": pipeline.untrained}.items()
    }
    allowed = pipeline.experiment.evaluation.allow_missing
    found = align_all(labels, tables, " and ".join(groups), allow_missing=allowed)
    return found["encoder"], found["untrained"]


def share_read(pipeline: Pipeline) -> float:
    """Share of the training rows that the published encoder has read; each pass reads every row once."""
    rows, trained = pipeline.prepare.require().summary.rows, pipeline.train.require()
    experiment = pipeline.experiment.resolved(rows[pipeline.experiment.data.train_split])
    if not experiment.model.trains:
        return 0.0
    steps = trained.steps if trained.best_step is None else trained.best_step
    behaviour = experiment.training.batch_size - experiment.training.question_rows
    return min(1.0, steps * behaviour / rows[experiment.data.train_split])


def _some(keys: pa.Table, users: int) -> pa.Table:
    """The rows of the users with the smallest hashes."""
    distinct = keys["user_id"].unique()
    chosen = distinct.take(np.argsort(hash64(distinct), kind="stable")[:users])
    return keys.filter(pc.is_in(keys["user_id"], value_set=chosen))
