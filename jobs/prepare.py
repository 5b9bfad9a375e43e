"""Turn event tables into user rows, features and labels.

Reads   the tables that `data.source` names (CSV, Parquet, local or s3://; or the Complete Journey package)
Writes  <output>/prepare-<digest>/: rows/<stage>/, labels/<stage>/, dead_letters/, data.json
"""

from ray_ggsm.cli import main
from ray_ggsm.on_ray.prepare import prepare

if __name__ == "__main__":
    main(__doc__, prepare)
