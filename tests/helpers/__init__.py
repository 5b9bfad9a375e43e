"""What several tests use. Fixtures stand in the conftest files."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""Of the checkout."""
