"""`ray-ggsm rayjob` as a script."""

from ray_ggsm.cli import main

if __name__ == "__main__":
    main("rayjob")
