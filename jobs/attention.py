"""Look at the attention of the encoder before and after training: to the future or the past, how far, how spread.

Reads   rows that jobs/prepare.py wrote (evaluation's test rows, or attention.stage), and the encoders of jobs/train.py
Writes  <output>/attention-<digest>/attention.json, and prints it as a table; event vectors that are missing are added
"""

from ray_ggsm.cli import main
from ray_ggsm.on_ray.attention import attention

if __name__ == "__main__":
    main(__doc__, attention)
