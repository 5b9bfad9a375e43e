"""Stops a training run that cannot recover, with a sentence that names the symptom and a remedy."""

import math

import pyarrow as pa

from ray_ggsm.training.loss import BatchStatistics

ONE_POINT = 0.9999
"""Mean cosine of positives and of negatives above which both towers count as collapsed."""
ONE_DIRECTION = {"bfloat16": 0.9999, "float32": 0.999999}
"""Mean cosine of user states, before they are centred, above which what sets them apart is hardly more than the
rounding of the backbone's numbers."""


class DivergenceError(RuntimeError):
    """Training cannot go on; the message names the symptom and a remedy."""

    rows: pa.Table | None = None
    """user_id and as_of of the batch in which it happened (this worker's part)."""


def check_loss(
    loss: float, statistics: BatchStatistics, user_cosine: float, dtype: str, step: int, rows: pa.Table
) -> None:
    """Check the loss of a step (0-based) on this worker's `rows`.

    Args:
        loss: the loss.
        statistics: those of the batch, of its centred states where the encoder centres them.
        user_cosine: mean cosine of user states before they are centred. Centred, states of one point are rounding, and
            no statistic shows that. (Answers may well be equal, where users have no future.)
        dtype: the backbone's numbers, `bfloat16` or `float32`.
        step: number of steps before it.
        rows: user_id and as_of of the batch's rows on this worker.

    Raises:
        DivergenceError: the loss is not finite, or the user tower or both towers collapsed to one point.
    """
    check_finite(loss, step, rows)
    if user_cosine > ONE_DIRECTION[dtype]:
        raise _error(
            f"all user states point in one direction (mean cosine {user_cosine:.7f} before centring, loss"
            f" {loss:.4f}); try a lower training.optimizer.learning_rate",
            step,
            rows,
        )
    if min(statistics.positive, statistics.negative) > ONE_POINT:
        sentence = (
            f"both towers collapsed to one point (all cosines are 1, loss {loss:.4f}); try a lower"
            " training.optimizer.learning_rate, or model.centre: true"
        )
        raise _error(sentence, step, rows)


def check_finite(loss: float, step: int, rows: pa.Table) -> None:
    """Check that the loss of a step (0-based) on this worker's `rows` is a number.

    Raises:
        DivergenceError: it is not.
    """
    if not math.isfinite(loss):
        raise _error(f"the loss is {loss}; try a lower training.optimizer.learning_rate", step, rows)


def check_gradient(norm: float, step: int, rows: pa.Table) -> None:
    """Check the norm of the gradient of a step (0-based) on this worker's `rows`.

    Raises:
        DivergenceError: the norm is not finite.
    """
    if not math.isfinite(norm):
        raise _error(f"the gradient's norm is {norm}; try a lower training.optimizer.learning_rate", step, rows)


def _error(sentence: str, step: int, rows: pa.Table) -> DivergenceError:
    error = DivergenceError(f"step {step}: {sentence}")
    error.rows = rows.select(["user_id", "as_of"])
    return error
