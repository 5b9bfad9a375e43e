"""Embed user rows with a trained encoder and publish an embedding table.

Reads   the rows of `embedding.stages`, and the encoder that jobs/train.py wrote
        (--set embedding.checkpoint=untrained: the same encoder at step 0)
Writes  <output>/embed-<digest>/table/ (a Delta table; docs/tables.md), staging/dead_letters/ (rejected rows, with
        reasons), report.json|html (what the run did). Exit code 3: a publish gate failed and nothing was published.
"""

from ray_ggsm.cli import main
from ray_ggsm.on_ray.embed import embed

if __name__ == "__main__":
    main(__doc__, embed, publishes=True)
