"""The periods of a monitored table, and which labels have matured: their horizon has passed.

Days are those of one time zone. Shapes: N label rows.
"""

import datetime as dt
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from ray_ggsm.clock import start_of_day
from ray_ggsm.config import NotNow
from ray_ggsm.evaluation.keys import AS_OF


@dataclass(frozen=True)
class Periods:
    """Equally long periods, one after the other."""

    first: dt.date
    """First day of period 0."""
    days: int
    """Length of a period."""
    future_days: int
    """Days from a label's moment until it is known."""
    today: dt.date
    """What happened is known up to the beginning of this day."""
    timezone: str

    def start(self, number: int) -> dt.date:
        """First day of a period."""
        return self.first + dt.timedelta(days=number * self.days)

    @property
    def matured(self) -> int:
        """Number of periods whose first day's labels are known."""
        return max(0, (self.today - self.first).days - self.future_days + self.days) // self.days

    def until(self, newest: dt.date | None) -> "Periods":
        """The same with what events up to a day tell; None: there are none."""
        return self if newest is None else replace(self, today=min(self.today, newest + dt.timedelta(days=1)))

    def check(self) -> None:
        """Refuse to go on as long as no label can be known.

        Raises:
            NotNow: saying when the first ones are.
        """
        if not self.matured:
            known = self.first + dt.timedelta(days=self.future_days)
            raise NotNow(
                f"first: labels of {self.first} are known {self.future_days} days later, on {known}, but what happened "
                f"only up to {self.today}"
            )

    def of(self, labels: pa.Table) -> tuple[pa.Table, np.ndarray, list[str]]:
        """The label rows (N) of periods whose labels are all known, the number of each row's period (N,), and a
        sentence for each reason why rows were left out.

        Raises:
            NotNow: there is no such row.
        """
        time_N = labels["as_of"].cast(AS_OF).cast(pa.int64()).to_numpy()
        count = (self.today - self.first).days // self.days + 2
        edges = [start_of_day(self.start(n), self.timezone) for n in range(count)]
        period_N = np.searchsorted(pa.array(edges, AS_OF).cast(pa.int64()).to_numpy(), time_N, side="right") - 1
        limit = start_of_day(self.today - dt.timedelta(days=self.future_days), self.timezone)
        known_N = time_N <= pa.scalar(limit, AS_OF).cast(pa.int64()).as_py()
        waiting_N = np.isin(period_N, period_N[~known_N])
        early, waiting = int((period_N < 0).sum()), int(waiting_N.sum())
        kept_N = (period_N >= 0) & ~waiting_N
        notes = [f"{early:,} label rows are of moments before {self.first} and were left out"] if early else []
        if waiting:
            start = self.start(int(period_N[waiting_N].min()))
            notes.append(
                f"{waiting:,} label rows were left out: their period, from {start} on, has labels that are known only "
                f"{self.future_days} days after their moment, and what happened is known up to {self.today}"
            )
        if not kept_N.any():
            raise NotNow("; ".join(["labels: no label row has matured", *notes]))
        return labels.filter(pa.array(kept_N)), period_N[kept_N], notes
