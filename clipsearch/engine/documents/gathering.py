"""How long the store's writer waits for more operations before it writes those that wait.

Each batch has costs of its own: a sync, a transaction, a dozen short appends to the index. A few milliseconds of wait
make batches several times larger where many operations are under way, and leave the time to those who parse and to the
clients. ``vespa feed`` gains once more: it has only so many operations under way as make it faster, with a penalty on
each; where more of them cost the engine less than proportionally it stops halfway, but an engine whose time is mostly
waiting makes it go on until a processor is busy. Eight clients that each wait for their answer would only lose by it:
so waiting is tried when operations come together without, and goes on while batches are larger than that.
"""

from __future__ import annotations

import time
from collections.abc import Callable

WAIT = 0.008  # seconds
TRY_AT = 4.0  # operations a batch on average, without waiting
WORTH = 12.0  # operations a batch on average, with waiting: more than the threads of pyvespa's synchronous loop
PAUSE = 5.0  # seconds until the next try, when waiting was not worth it
ENOUGH = 256  # operations that wait already: no need to wait for more
_WEIGHT = 0.3  # of the last batch in the average


class Gathering:
    """Decides, from the sizes of past batches, whether to wait; for the writer's thread."""

    def __init__(
        self, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sleep, self._clock = sleep, clock
        self._waits = False
        self._average = 0.0
        self._not_before = 0.0

    def wait(self, waiting: int) -> None:
        """Waits, if that is worth it; ``waiting``: how many operations wait already."""
        if self._waits and waiting < ENOUGH:
            self._sleep(WAIT)

    def wrote(self, count: int) -> None:
        """A batch of ``count`` operations was written."""
        self._average += _WEIGHT * (count - self._average)
        if not self._waits and self._average >= TRY_AT and self._clock() >= self._not_before:
            self._waits, self._average = True, 1.5 * WORTH  # a few small batches are forgiven
        elif self._waits and self._average < WORTH:
            self._waits, self._average, self._not_before = False, 0.0, self._clock() + PAUSE
