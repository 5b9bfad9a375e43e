"""Registers of runs that teams have (MLflow, Weights & Biases), beside the logs of a run's own directory."""
