"""Axes of charts, which map values to positions and have round ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A linear scale: values from `low` to `high` lie at positions from `start` to `end`; ticks are `step` apart."""

    low: float
    high: float
    step: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> "Axis":
        """The smallest axis that holds `values`; its two to five ticks are 1, 2 or 5 times a power of ten apart."""
        low, high = min(values), max(values)
        if low == high:
            low, high = low - abs(low or 1.0) / 2, high + abs(high or 1.0) / 2
        rough = (high - low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        return cls(low, high, step, start, end)

    def __call__(self, value: float) -> float:
        """Position of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Multiples of the step between `low` and `high`."""
        first, last = math.ceil(self.low / self.step - 1e-6), math.floor(self.high / self.step + 1e-6)
        return [self.step * n for n in range(first, last + 1)]

    def text(self, tick: float) -> str:
        """Label of a tick, with as many decimals as the step needs."""
        decimals = max(0, -math.floor(math.log10(self.step) + 1e-9))
        return f"{tick:,.{decimals}f}".replace("-", "−") if abs(tick) > self.step / 2 else "0"


@dataclass(frozen=True)
class LogAxis:
    """A logarithmic scale that begins and ends at a tick; ticks are 1, 2 or 5 times a power of ten."""

    ticks: tuple[float, ...]
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> "LogAxis":
        """The smallest axis that holds positive `values`; from three decades on, its ticks are powers of ten only."""
        low, high = min(values) * 1.0001, max(values) * 0.9999
        factors = (1, 2, 5) if high < 1000 * low else (1,)
        powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 2)
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        first = max(n for n, tick in enumerate(ticks) if tick <= low)
        last = min(n for n, tick in enumerate(ticks) if tick >= high)
        return cls(tuple(ticks[first : max(last, first + 1) + 1]), start, end)

    def __call__(self, value: float) -> float:
        """Position of a value."""
        low, high = math.log10(self.ticks[0]), math.log10(self.ticks[-1])
        return self.start + (math.log10(value) - low) / (high - low) * (self.end - self.start)

    def text(self, tick: float) -> str:
        """Label of a tick."""
        return f"{tick:g}"
