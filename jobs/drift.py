"""Say what changed between two encoders, or two versions or moments of a table, for the same users.

Reads   the two tables that the config names (configs/own_events/drift.yaml) and, for probes, two label tables
Writes  one JSON file: users in common, cosines, Procrustes distance, common neighbours, AUCs and their differences
"""

from ray_ggsm.cli import main
from ray_ggsm.on_ray.drift import DriftConfig, drift, preview

if __name__ == "__main__":
    main(__doc__, drift, preview=preview, schema=DriftConfig)
