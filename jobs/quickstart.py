"""All stages in a row: prepare, train, embed, evaluate. Finished stages are reused.

Reads   what the four jobs read; without --config, the Complete Journey data and models from PyPI packages
Writes  what the four jobs write, below the config's `output`, and prints the summary
"""

from pathlib import Path

from ray_ggsm.cli import main
from ray_ggsm.on_ray.quickstart import quickstart

if __name__ == "__main__":
    main(__doc__, quickstart, str(Path(__file__).parents[1] / "configs" / "journey" / "quickstart.yaml"))
