"""All stages in a row, on one Ray connection."""

from ray_ggsm.experiment import Experiment, untrained
from ray_ggsm.on_ray.cluster import connected
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.on_ray.evaluate import check_config, evaluate
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.on_ray.train import train


def quickstart(experiment: Experiment) -> None:
    """Prepare, train, embed with the trained and the untrained encoder, evaluate; finished stages are reused."""
    check_config(experiment)
    with connected(experiment):
        prepare(experiment)
        train(experiment)
        embed(experiment)
        embed(untrained(experiment))
        evaluate(experiment)
