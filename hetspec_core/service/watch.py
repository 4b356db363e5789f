"""Following one attempt of a run through its journal, live or afterwards, to the end of its supervisor."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator

from hetspec_core.events import Event, FoundLost, Progress, RunEnded, RunStarted, Tally, read_facts, read_pieces
from hetspec_core.jobs import Executor, Job, look_at
from hetspec_core.paths import RunPaths

CHECK_PERIOD_S = 0.3
_REAP_S = 10.0


class Watch:
    """An iterator over the events of one attempt. It waits for the next event and stops after the last one.

    Progress of a task that several workers share is given per worker, followed by the sum. The last event is
    `RunEnded`, or `FoundLost` when the worker exited without an end event. After an exception while it waits (such as
    KeyboardInterrupt) the iteration can be continued.

    Args:
        paths: the run folder.
        attempt: which attempt; events of earlier ones are left out.
        find_lost: called at intervals; gives `FoundLost` if the worker exited without an end event, else None.
        period_s: seconds between looks at the journal.
    """

    def __init__(
        self, paths: RunPaths, attempt: int, find_lost: Callable[[], FoundLost | None], *, period_s: float = 0.1
    ) -> None:
        self.done = False
        self._paths = paths
        self._attempt = attempt
        self._find_lost = find_lost
        self._period_s = period_s
        self._offset = 0
        self._all_read = False
        self._began = False
        self._tally = Tally()
        self._next_check = 0.0
        self._buffer: deque[Event] = deque()

    def poll(self) -> list[Event]:
        """The new events, without waiting. `done` is set with the last one."""
        self._fetch()
        events: list[Event] = []
        while self._buffer and not self.done:
            events.append(self._take())
        return events

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        while not self.done:
            if self._buffer:
                return self._take()
            self._fetch()
            if not self._buffer:
                time.sleep(self._period_s)
        raise StopIteration

    def _fetch(self) -> None:
        if self.done:
            return
        found = self._read()
        while not found and not self._all_read:
            found = self._read()
        if not found and not self._buffer and time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + CHECK_PERIOD_S
            lost = self._find_lost()
            if lost is not None:  # the worker has ended: what it wrote is complete, and read once more
                found = self._read()
                while not self._all_read:
                    found += self._read()
                if not any(isinstance(event, RunEnded) for event in found):
                    found = [*found, lost]
        self._buffer.extend(found)

    def _take(self) -> Event:
        event = self._buffer.popleft()
        self.done = isinstance(event, RunEnded | FoundLost)
        return event

    def _read(self) -> list[Event]:
        """The events in the next piece of the journal."""
        before = self._offset
        events, self._offset = next(read_pieces(self._paths.events, before))
        self._all_read = self._offset == before
        found: list[Event] = []
        for event in events:
            if isinstance(event, RunStarted) or (isinstance(event, RunEnded) and event.attempt):
                self._began = event.attempt >= self._attempt
            if self._began:
                found += self._tally.show(event) if isinstance(event, Progress) else [event]
        return found


def reap(executor: Executor, paths: RunPaths, job: Job | None) -> None:
    """Wait a moment until the supervisor of a run that has ended exits: its last act is to start or end the runs that
    wait for this one.

    Args:
        executor: looks at the supervisor that another process started.
        paths: the run.
        job: its supervisor if this process started it; None if another one did, when the run left the queue.
    """
    facts = None if job is not None else read_facts(paths)
    limit = time.monotonic() + _REAP_S
    while time.monotonic() < limit:
        if job is not None and job.poll() is not None:
            return
        if facts is not None and look_at(executor, paths, facts).phase not in ("working", "ending", "unknown"):
            return
        time.sleep(0.01)
