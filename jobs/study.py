"""Compare recipes (or any settings) over seeds: train, embed and score every run, then test all differences.

Reads   a study config (configs/journey/study.yaml) and the experiment config that it names
Writes  below the study's `output` the stages of every run, scores-<digest>.parquet, and study-<digest>/study.json|md
Start it again after any interruption: what is done is not done again.
"""

from ray_ggsm.cli import main
from ray_ggsm.on_ray.study import StudyConfig, preview, study

if __name__ == "__main__":
    main(__doc__, study, preview=preview, schema=StudyConfig)
