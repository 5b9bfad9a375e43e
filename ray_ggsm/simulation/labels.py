"""The labels of a simulated population whose best AUC is known."""

from datetime import date

import numpy as np

from ray_ggsm.simulation.config import SimulationConfig
from ray_ggsm.simulation.population import Traits, best_auc, probabilities

SAMPLE = 100_000
"""Largest number of users whose traits tell the best AUCs."""


def best_aucs(config: SimulationConfig, first: date) -> dict[str, float | None]:
    """Per label, the AUC of its exact probability given the traits, for the days from `first` on.

    The labels: whether a table has an event within `horizon_days`, and whether it has one of group 0. None where no
    AUC is to be expected (`best_auc`).
    """
    traits = Traits.of(config, np.arange(min(config.users, SAMPLE)))
    found: dict[str, float | None] = {}
    for table in config.tables:
        found[f"any_{table}"] = best_auc(probabilities(config, traits, table, first, None))
        found[f"{table}_topic_0"] = best_auc(probabilities(config, traits, table, first, 0))
    return found
