"""Find the users of an embedding table who are most like some seed users, or like one sentence.

Reads   the newest version of the table, and the seed users' file or the encoder
Writes  one Parquet file: user_id, as_of, score (cosine), best first

  python jobs/lookalike.py s3://bucket/users --users-file seeds.txt --k 100000 --output s3://bucket/audience.parquet
"""

import sys

from ray_ggsm.on_ray.lookalike import run

if __name__ == "__main__":
    sys.exit(run(__doc__))
