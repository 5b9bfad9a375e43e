"""Refresh a long-lived embedding table: encode the users who changed, carry the others forward, publish one version.

Reads   the user rows, the encoder and the newest version of the table that the section `refresh` names
Writes  a new version of the table (none when nothing changed), and below it staging/<run>/dead_letters/ (rejected
        rows, with reasons) and runs/<run>/report.json|html (what the run did).
Start it again after any failure: it goes on where it was.
Exit code 3: a publish gate failed and nothing was published.
"""

from ray_ggsm.cli import main
from ray_ggsm.on_ray.refresh import preview, refresh

if __name__ == "__main__":
    main(__doc__, refresh, publishes=True, preview=preview)
