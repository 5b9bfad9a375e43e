"""`ray-ggsm quickstart` as a script; without --config it runs on Complete Journey."""

from pathlib import Path

from ray_ggsm.cli import main

if __name__ == "__main__":
    main("quickstart", str(Path(__file__).parents[1] / "configs" / "journey" / "quickstart.yaml"))
