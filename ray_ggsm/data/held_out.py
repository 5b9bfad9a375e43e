"""Whether the splits of a config can give an honest evaluation; known before anything is prepared or trained."""

from itertools import combinations

from ray_ggsm.config import InputError
from ray_ggsm.data.config import DataConfig


def check_held_out(config: DataConfig, fit: str, score: str, *, allow_same_period: bool) -> None:
    """Refuse to fit probes on one split and score them on another where the second is not held out.

    Args:
        config: has both splits, and `pretrain`.
        fit: split whose rows the probes are fitted on.
        score: split whose rows they are scored on.
        allow_same_period: accept futures that overlap between splits without a common user.

    Raises:
        InputError: a user can be in both splits, or the futures of two of the three splits overlap.
    """
    if config.share_users(fit, score):
        raise InputError(
            f"data.splits.{score}.users: '{fit}' and '{score}' can share users, but a probe must be scored on people "
            "it has never seen; give train users to one split and test users to the other"
        )
    for first, second in combinations(("pretrain", fit, score), 2):
        gap = config.gap_days(first, second)
        if gap < config.snapshots.future_days and not allow_same_period:
            raise InputError(
                f"data.splits.{second}.cutoffs: the futures of '{first}' and '{second}' overlap (cutoffs {gap} days "
                f"apart, future_days {config.snapshots.future_days}), so training sees a time that the test should "
                "predict; use later cutoffs, or set evaluation.allow_same_period: true"
            )
