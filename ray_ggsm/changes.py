"""What the train stage once did in another way with the same config: old results do not pass for new ones."""

from ray_ggsm.experiment import Experiment
from ray_ggsm.masks.recipe import WarmupConfig
from ray_ggsm.masks.scheduler import SchedulerConfig
from ray_ggsm.model.config import ModelConfig
from ray_ggsm.model.kinds import StreamConfig


def changes_of_training(e: Experiment) -> list[str]:
    """The present ways of what the experiment does; none where it always was so. The train stage's digest has them."""
    found, model = [], e.model
    if isinstance(e.mask, SchedulerConfig | WarmupConfig):
        found.append("the encoder at step 0 is centred and embedded under the inference mask")
    if e.mask is not None and e.training.answer.form == "text":
        found.append("answers are not cut")
    if isinstance(model, ModelConfig) and model.backbone.weights == "random" and e.seed:
        found.append("random weights are the seed's")
    if e.training.questions is not None:
        found.append("the centre of answers is that of all that a batch has")
    if isinstance(model, StreamConfig) and model.changed:
        found.append(model.changed)
    return found
