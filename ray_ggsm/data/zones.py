"""Python, Arrow and DuckDB bring time zone data of their own, of different years; here they must agree."""

import datetime as dt
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pyarrow as pa

from ray_ggsm.clock import wall_clock
from ray_ggsm.config import InputError
from ray_ggsm.data.aggregates import all_windows
from ray_ggsm.data.config import DataConfig

STEP = dt.timedelta(hours=3)


def check_zone(connection: duckdb.DuckDBPyConnection, config: DataConfig) -> None:
    """Refuse a time zone of which the libraries think differently somewhere between first and last event.

    Args:
        connection: its time zone is that of the snapshots.
        config: cutoffs and windows.

    Raises:
        InputError: with the first moment at which they differ.
    """
    zone, dates = config.snapshots.timezone, config.snapshots.dates
    before = max(days for side, days in all_windows(config) if side == "history")
    start = dt.datetime.combine(min(dates), dt.time(), dt.UTC) - dt.timedelta(before + 1)
    days = (max(dates) - min(dates)).days + before + config.snapshots.future_days + 2
    last = min(days, (dt.date.max - start.date()).days - 1) * (dt.timedelta(days=1) // STEP)
    moments = [start + k * STEP for k in range(last)]
    instants = pa.array(moments, pa.timestamp("us", "UTC"))
    local = [moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for moment in moments]
    python = np.array(local, dtype="datetime64[us]").astype(np.int64)
    found = {"Arrow": wall_clock(instants.cast(pa.timestamp("us", zone))), "DuckDB": _of_duckdb(connection, instants)}
    for library, shown in found.items():
        if different := np.flatnonzero(shown != python).tolist():
            raise InputError(
                f"data.snapshots.timezone: the time zone data of {library} and of this machine's Python differ for "
                f"{zone} on {local[different[0]].date()}; bring tzdata, pyarrow and duckdb up to date, or choose "
                "another zone, or cutoffs before that day"
            )


def _of_duckdb(connection: duckdb.DuckDBPyConnection, instants: pa.Array) -> np.ndarray:
    table = pa.table({"us": instants.cast(pa.int64())})
    relation = connection.from_arrow(table).project("epoch_us(make_timestamptz(us)::TIMESTAMP) AS shown")
    shown: np.ndarray = relation.to_arrow_table()["shown"].to_numpy()
    return shown
