"""All stages in a row, on one Ray connection."""

from ray_ggsm.on_ray.cluster.connection import connected
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.on_ray.evaluate import check_evaluation, evaluate
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.on_ray.train import train
from ray_ggsm.stages import Pipeline


def quickstart(pipeline: Pipeline) -> None:
    """Prepare, train, embed with the trained and the untrained encoder, evaluate; finished stages are reused."""
    check_evaluation(pipeline.experiment)
    with connected(pipeline.experiment):
        prepare(pipeline)
        train(pipeline)
        embed(pipeline)
        embed(pipeline.untrained)
        evaluate(pipeline)
