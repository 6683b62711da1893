"""How far a batch is, within its shards too: one long record may be all there is of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from seqdomains.pipelines.batch.plan import Plan
from seqdomains.pipelines.progress import Paced, Show, duration


@dataclass(frozen=True)
class Done:
    """A shard that is finished, and what it was."""

    shard: int
    windows: int
    tokens: int
    failures: int


# Seconds between two looks at what is computed, which short chunks would tell more often.
_LOOKS = 0.1
# Takes a shard and how many tokens of it are computed.
Heard = Callable[[int, int], None]


def nobody(shard: int, tokens: int) -> None:
    """Listen to nothing.

    Examples
    --------
    >>> nobody(0, 100)
    """


class Pace:
    """What is finished of a batch and what is under way, told as it comes, from any thread.

    On a terminal the bar's text moves with what is computed. Elsewhere there is a line for every tenth of the shards,
    and where none of them ends one every half minute.

    Parameters
    ----------
    plan : Plan
    mine, missing : sequence of int
        Shards of this job, and those of them that are not done.
    tokens_name : str
        What the user calls a token.

    Examples
    --------
    >>> from seqdomains.pipelines.batch.plan import Stretch
    >>> plan = Plan({"whole": True, "per_second": 100}, (), ((Stretch(0, 0, 1),),), (), tokens=(36_000,))
    >>> pace = Pace(plan, [0], [0], tokens_name="positions")
    >>> pace.heard(0, 9000)
    >>> pace.text()[:37]
    '0 of 1 files, 1 min 30 s of 6 min 0 s'
    """

    def __init__(self, plan: Plan, mine: Sequence[int], missing: Sequence[int], *, tokens_name: str) -> None:
        self._plan = plan
        self._tokens_name = tokens_name
        self._shards = len(missing)
        self.total = sum(plan.windows_of(number) for number in mine)
        self.before = self.done = self.total - sum(plan.windows_of(number) for number in missing)
        self.finished = self.tokens = self.failures = 0
        self._files = 0
        # How many shards each input still waits for.
        self._waits = Counter(part.input for number in missing for part in plan.shards[number])
        self._inputs = len(self._waits)
        sizes = [plan.tokens_of(number) for number in mine]
        self._all_tokens = sum(size for size in sizes if size is not None) if None not in sizes else None
        self._tokens_before = sum(plan.tokens_of(number) or 0 for number in set(mine) - set(missing))
        self._under_way: dict[int, int] = {}
        self._lock = threading.RLock()
        self._began = time.monotonic()
        self._lines = Paced()
        # Short records are read by the ten thousand a second.
        self._looks = Paced(_LOOKS)
        self.show: Show | None = None

    def heard(self, shard: int, tokens: int) -> None:
        """Take in how many tokens are computed of a shard that is under way; fewer than before where it began anew."""
        with self._lock:
            self._under_way[shard] = tokens
            if self.show is not None and self._looks.due():
                self.show(self.done, self.text(), self._lines.due())

    def took(self, one: Done) -> None:
        """Take in a finished shard."""
        with self._lock:
            self._under_way.pop(one.shard, None)
            self.finished, self.tokens = self.finished + 1, self.tokens + one.tokens
            self.done += self._plan.windows_of(one.shard)
            self.failures += one.failures
            for part in self._plan.shards[one.shard]:
                self._waits[part.input] -= 1
                self._files += not self._waits[part.input]
            # A line for every tenth, where there is no terminal.
            tenth = self.finished * 10 // self._shards > (self.finished - 1) * 10 // self._shards
            if tenth:
                self._lines.restart()
            if self.show is not None:
                self.show(self.done, self.text(), tenth)

    def text(self) -> str:
        """Return it in words."""
        with self._lock:
            taken = max(time.monotonic() - self._began, 1e-9)
            read = self.tokens + sum(self._under_way.values())
            text = f"{self._files} of {self._inputs} files, "
            if self._all_tokens is not None and self._plan.unit == "records":
                text += f"{self._part(self._tokens_before + read, self._all_tokens)}, "
            text += f"{read / taken / 1e6:.3g} M {self._tokens_name}/s"
            if self._plan.unit == "windows":
                done = self.done - self.before
                text += f", {done / taken:.4g} windows/s"
            if (left := self._left(read, taken)) is not None:
                text += f", {duration(left)} left"
            return text + (f", {self.failures} left out" if self.failures else "")

    def _part(self, read: int, total: int) -> str:
        per_second = self._plan.parameters.get("per_second")
        if isinstance(per_second, int | float) and per_second > 0:
            return f"{duration(read / per_second)} of {duration(total / per_second)}"
        return f"{read / 1e6:.3g} of {total / 1e6:.3g} M {self._tokens_name}"

    def _left(self, read: int, taken: float) -> float | None:
        """Return the seconds that are left, s; None where nothing says."""
        if self._all_tokens is not None and read:
            # Windows at the end of a record are shorter than planned, and left-out inputs are read no further.
            return max(0.0, taken * (self._all_tokens - self._tokens_before - read) / read)
        if self._plan.unit == "windows":
            return (self.total - self.done) * taken / max(self.done - self.before, 1)
        # Records may be of any length, and say little about the time left.
        return None
