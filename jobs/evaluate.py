"""Fit linear and LightGBM probes on frozen vectors and compare encoder, untrained encoder and hand-crafted features.

Reads   labels and tabular features that jobs/prepare.py wrote, and the tables of jobs/embed.py (trained and untrained)
Writes  <output>/evaluate-<digest>/: report.html, results.json; and <output>/summary.json
"""

from ray_ggsm.cli import main
from ray_ggsm.on_ray.evaluate import evaluate

if __name__ == "__main__":
    main(__doc__, evaluate)
