"""The privacy card, recomputed, and how it is after users were forgotten and the encoder was trained without them.

    python benchmarks/privacy.py --set data.source.tables.lifts.files=PLACE [--percent 20]

Trains a config's encoder twice (by default configs/lifters/train.yaml): as it is, and with so many percent more test
users, whom the second encoder never sees: the forgotten. (Test users are those with the largest hashes, so the others
stay where they are. Taken out of the events, as `store.py forget` does, they would be missing in the same way.) Both
encoders embed the train split's moments; finished stages are reused. Printed are the attacks of `evaluation.privacy` on

    before    vectors of the forgotten by the first encoder, which was trained on them, against those of the test users
    after     vectors of the same people by the second encoder

each with the AUC that this script computes for itself from the tables' files, by Newton's method and a loop over pairs.
"""

import argparse

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.config import load
from ray_ggsm.data.rows import row_keys
from ray_ggsm.evaluation.alignment import Aligned, align_all
from ray_ggsm.evaluation.metrics import Estimate
from ray_ggsm.evaluation.privacy import TRAINED, membership
from ray_ggsm.experiment import Experiment
from ray_ggsm.hashing import hash64
from ray_ggsm.on_ray.cluster.connection import connected
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.on_ray.probing.probes import probe_all
from ray_ggsm.on_ray.train import train
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table

CONFIG, OTHERS, STRENGTH = "configs/lifters/train.yaml", "privacy_others", 0.01


def independent_auc(users_N: np.ndarray, vector_ND: np.ndarray, member_N: np.ndarray, strength: float) -> float:
    """The card's attack by vectors, without the package's probes: AUC of guessing the group of half of the users by a
    logistic regression on the other half, whose groups are known."""
    known_N = np.array([int(hash64([user])[0]) % 4 in (0, 2) for user in users_N])
    logged_ND = np.sign(vector_ND) * np.log1p(np.abs(vector_ND.astype(np.float64)))
    mean_D, deviation_D = logged_ND[known_N].mean(axis=0), logged_ND[known_N].std(axis=0)
    x_NE = np.hstack([(logged_ND - mean_D) / np.where(deviation_D > 0, deviation_D, 1), np.ones((len(users_N), 1))])
    x_KE, y_K = x_NE[known_N], member_N[known_N].astype(float)
    penalty_E = np.append(np.ones(x_KE.shape[1] - 1), 0) / strength  # the constant is free
    weight_E = np.zeros(x_KE.shape[1])
    for _ in range(50):
        p_K = 1 / (1 + np.exp(-(x_KE @ weight_E)))
        gradient_E = x_KE.T @ (p_K - y_K) + penalty_E * weight_E
        weight_E -= np.linalg.solve((x_KE * (p_K * (1 - p_K))[:, None]).T @ x_KE + np.diag(penalty_E), gradient_E)
    score_N = x_NE @ weight_E
    members, others = (score_N[~known_N & (member_N == group)] for group in (1, 0))
    return float(np.mean([np.mean((score > others) + 0.5 * (score == others)) for score in members]))


def finished(experiment: Experiment) -> Pipeline:
    """All stages that the attacks need, done."""
    place = Pipeline.of(experiment)
    prepare(place)
    train(place)
    embed(place)
    embed(place.untrained)
    return place


def keys_of(place: Pipeline) -> pa.Table:
    """Rows of all users at the train split's moments, and whether the encoder was trained on them."""
    parts = [(place.experiment.data.train_split, True), (OTHERS, False)]
    tables = [(row_keys(place.prepare.rows(split)), is_in) for split, is_in in parts]
    return pa.concat_tables([rows.append_column(TRAINED, pa.repeat(is_in, len(rows))) for rows, is_in in tables])


def aligned(place: Pipeline, labels: pa.Table) -> tuple[Aligned, Aligned]:
    """The vectors of rows by the encoder, and by the encoder at step 0."""
    tables = {
        name: (open_table(each.embed.require().table).read(columns=["user_id", "as_of", "embedding"]), "embedding")
        for name, each in (("encoder", place), ("untrained", place.untrained))
    }
    found = align_all(labels, tables, "privacy")
    return found["encoder"], found["untrained"]


def told(estimate: Estimate) -> str:
    """A number with its interval."""
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def attack(name: str, place: Pipeline, labels: pa.Table) -> None:
    """Print what the attacks find."""
    encoder, untrained = aligned(place, labels)
    found = membership(place.experiment.evaluation, place.experiment.seed, encoder, untrained, probe_all)
    for kind, each in found.attacks.items():
        numbers = f"AUC {told(each.encoder)}, untrained {told(each.untrained)}, difference {told(each.difference)}"
        print(f"{name:<7} {kind:<11} {numbers}", flush=True)
    own = independent_auc(encoder.users, encoder.vectors, encoder.labels[TRAINED], STRENGTH)
    print(f"{name:<7} {'vectors':<11} {own:.3f}, recomputed\n{name:<7} {found.verdict}", flush=True)


def main() -> None:
    """Train both encoders, and attack."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE")
    parser.add_argument("--percent", type=int, default=20)
    options = parser.parse_args()
    base = load(Experiment, options.config, options.set)
    split, percent = base.data.train_split, base.data.users.test_percent
    changes = [
        *options.set,
        f"data.splits.{OTHERS}={{users: test, cutoffs: {list(base.data.splits[split].cutoffs)}}}",
        f"embedding.splits=[{split}, {OTHERS}]",
        f"evaluation.linear.strengths=[{STRENGTH}]",
    ]
    first, second = (
        load(Experiment, options.config, [*changes, f"data.users.test_percent={each}"])
        for each in (percent, percent + options.percent)
    )
    with connected(first):
        before, after = finished(first), finished(second)
        was, now = keys_of(before), keys_of(after)
        never = was.filter(pc.invert(was[TRAINED]))["user_id"].unique()
        strangers = now.filter(pc.invert(now[TRAINED]))  # the forgotten, and who was never trained on
        forgotten_N = pc.invert(pc.is_in(strangers["user_id"], value_set=never))
        labels = strangers.set_column(strangers.column_names.index(TRAINED), TRAINED, forgotten_N)
        attack("before", before, labels)
        attack("after", after, labels)


if __name__ == "__main__":
    main()
