"""`ray-ggsm export` as a script, for `ray job submit`."""

from ray_ggsm.cli import main

if __name__ == "__main__":
    main("export")
