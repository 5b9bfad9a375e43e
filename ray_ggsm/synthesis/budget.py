"""Limits of what a run may ask: tokens in all, requests and tokens per minute. One budget serves all workers.

The file says how much is granted, also where nothing is limited. It is written before tokens are given out, in blocks,
so that a kill can waste the rest of a block, but nothing is ever spent twice.
"""

import time
from collections.abc import Callable

from ray_ggsm import storage
from ray_ggsm.synthesis.config import BudgetConfig

BLOCKS = 50
"""Parts in which the budget is granted."""
BLOCK = 100_000
"""Tokens of a part where there is no limit."""


class Budget:
    """What is left."""

    def __init__(self, config: BudgetConfig, file: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Go on with what earlier runs have left; `file` keeps it, local or s3://."""
        self.config, self.file, self.clock = config, file, clock
        self.used: int = storage.read_json(file)["tokens"] if storage.exists(file) else 0
        self.granted, self.reserved, self.free_at, self.closed = self.used, 0, 0.0, False

    def take(self, tokens: int) -> float | None:
        """Reserve tokens for a request: the seconds until it may be sent; None: with what is reserved, there are not as
        many left, or nothing is given out any more."""
        if self.closed:
            return None
        needed = self.used + self.reserved + tokens
        limit = self.config.tokens
        if limit is not None and needed > limit:
            return None
        self.reserved += tokens
        if needed > self.granted:
            self.granted = needed + BLOCK if limit is None else min(limit, needed + limit // BLOCKS)
            self._keep(self.granted)
        now = self.clock()
        start = max(now, self.free_at)
        self.free_at = start + self._seconds(tokens)
        return start - now

    def settle(self, reserved: int, used: int) -> None:
        """Say what a request has used of what was reserved for it."""
        self.reserved -= reserved
        self.used += used

    def close(self) -> int:
        """Give out nothing more, and keep what was used. What is still reserved counts as used: somebody was stopped
        before the reply came."""
        self.closed, kept = True, self.used + self.reserved
        self._keep(kept)
        return kept

    def _keep(self, tokens: int) -> None:
        storage.write_json(self.file, {"tokens": tokens})

    def _seconds(self, tokens: int) -> float:
        """How long the request after one of so many tokens must wait."""
        c = self.config
        by_requests = 60 / c.requests_per_minute if c.requests_per_minute else 0.0
        return max(by_requests, 60 * tokens / c.tokens_per_minute if c.tokens_per_minute else 0.0)
