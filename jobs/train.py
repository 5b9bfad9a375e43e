"""Fine-tune the decoder into a user encoder with the configured mask recipe.

Reads   the pretrain rows that jobs/prepare.py wrote, and the pretrained models that `model` names
Writes  <output>/train-<digest>/: encoder/, untrained/ (the same encoder at step 0), log.json, runs/ (checkpoints);
        <output>/event_vectors/ (one vector per distinct event text, shared by all runs)
An interrupted run goes on from its last checkpoint.
"""

from ray_ggsm.cli import main
from ray_ggsm.on_ray.train import train

if __name__ == "__main__":
    main(__doc__, train)
