"""Look after an embedding table: history, verify, rollback, vacuum, forget.

Reads   the table's log and files; `forget` also a text file with one user_id per line
Writes  new versions of the table; `vacuum` removes files

  python jobs/tables.py history s3://bucket/users
  python jobs/tables.py vacuum s3://bucket/users --retention-hours 168 --dry-run
"""

import sys

from ray_ggsm.tables.commands import run

if __name__ == "__main__":
    sys.exit(run(__doc__))
