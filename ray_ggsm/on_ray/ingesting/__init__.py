"""Tasks of an ingest."""
