"""The command line of all jobs: `ray-ggsm JOB ...`, and `python jobs/JOB.py ...` for `ray job submit`."""

from ray_ggsm.cli.main import main

__all__ = ["main"]
