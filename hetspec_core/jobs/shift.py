"""The workers of an attempt while they are at work: who is started again, who ends with whom, when all are gone.

It knows the rules of each kind of crew; it does not know signals that come from outside, nor the journal's last word.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from hetspec_core.jobs import children
from hetspec_core.jobs.crew import CrewKind, Member
from hetspec_core.jobs.endings import Ending, cannot_start, ending_of, with_worker

RETRIES = 3
"""How often a worker that makes a share is started again."""
BACKOFF_S = 0.5
"""Seconds before the first of these starts; twice as many before each further one."""
SETTLE_S = 3.0
"""Seconds that ranks have to say their own ends after one of them has failed; they cannot go on without it."""
LEAVE_S = 15.0
"""Seconds for the rest of a crew that stops: for ranks since the first has gone, for any since it said its end."""
FAILED_GRACE_S = 60.0
"""Seconds that the other shares have to reach a safe point after one has failed for good."""


class Shift:
    """Members at work.

    Args:
        kind: the rules.
        members: who works; `alone` is one.
        tell: puts a warning in front of the reader of the run.

    Attributes:
        endings: the bad ends of members that report, by name, the newest each; those that started again are taken out.
        statuses: exit status of each member that has gone, by name.
    """

    def __init__(self, kind: CrewKind, members: list[Member], tell: Callable[[str], None]) -> None:
        self.kind: CrewKind = kind
        self.members = members
        self.endings: dict[str, Ending] = {}
        self.statuses: dict[str, int] = {}
        self._tell = tell
        self._stopping = False
        self._deadline: float | None = None
        self._due: dict[str, float] = {}
        self._said: dict[str, float] = {}
        self._killed: set[str] = set()

    @property
    def pids(self) -> set[int]:
        """Of those at work."""
        return {member.pid for member in self.members if member.pid}

    @property
    def is_over(self) -> bool:
        """Whether nobody is at work and nobody is to be started again."""
        return not self.pids and not self._due

    @property
    def has_failed(self) -> bool:
        """Whether a member ended badly and is not started again."""
        return bool(self.endings)

    def begin(self) -> None:
        """Start all of them; if one cannot be, none is left."""
        for member in self.members:
            if not self._start(member):
                self._cut_short(0.0)
                return

    def stop(self, grace_s: float) -> None:
        """Ask all of them to stop, and end those that have not after so many seconds."""
        self._due.clear()
        if not self._stopping:
            self._stopping = True
            for member in self.members:
                member.ask()
        self._cut_short(grace_s)

    def tend(self) -> float:
        """Bury who has ended, start who is due, end whose time is over; returns for how many seconds that will do."""
        for member in self.members:
            if member.has_ended():
                self._bury(member)
            elif member.pid and member.report() is not None:
                self._let_leave(member)
        now = time.monotonic()
        for member in self.members:
            if self._due.get(member.name, now + 1) <= now:
                del self._due[member.name]
                self._start(member)
        if self._deadline is not None and now >= self._deadline:
            for member in self.members:
                self._kill(member)
        soon = [*self._due.values(), *(deadline for deadline in [self._deadline] if deadline is not None)]
        return max(0.05, min(soon, default=now + 60.0) - now)

    def _start(self, member: Member) -> bool:
        try:
            member.start()
        except OSError as reason:
            self.endings[member.name] = Ending(member.name, time.time(), cannot_start(reason))
            return False
        self._said.pop(member.name, None)
        if self._stopping:  # it was due when all were asked
            member.ask()
        return True

    def _bury(self, member: Member) -> None:
        seen = time.time()
        self.statuses[member.name] = status = member.bury()
        if self.kind == "alone":
            return
        children.end_orphans(member.name, self.pids)
        ending = ending_of(member, status, seen)
        if ending.error is None:
            self.endings.pop(member.name, None)
        elif self.kind == "shares":
            self._take_up_again(member, replace(ending, is_echo=False))  # it talks to no other
        else:
            ended_here = member.name in self._killed and not ending.is_said
            self.endings[member.name] = replace(ending, is_echo=ending.is_echo or ended_here)
            leaves = self._stopping or ending.error["kind"] == "cancelled"  # as when another machine's rank was asked
            self._cut_short(LEAVE_S if leaves else SETTLE_S)

    def _take_up_again(self, member: Member, ending: Ending) -> None:
        """Start the worker of a share again, if that may help; else the others need not go on either."""
        if self._stopping or self.endings:
            self.endings.setdefault(member.name, ending)
            return
        again = member.starts
        if not ending.is_passing or again > RETRIES:
            self.endings[member.name] = with_worker(ending, member.starts)
            self.stop(FAILED_GRACE_S)
            return
        wait_s = BACKOFF_S * 2 ** (again - 1)
        self._due[member.name] = time.monotonic() + wait_s
        said = with_worker(ending).error or {}
        self._tell(f"{said.get('message')}; its share is taken up again ({again} of {RETRIES} times)")

    def _let_leave(self, member: Member) -> None:
        """End a member that has said its end but stays, as a rank can that waits for one that is gone."""
        since = self._said.setdefault(member.name, time.monotonic())
        if time.monotonic() - since > LEAVE_S:
            self._kill(member)

    def _kill(self, member: Member) -> None:
        if member.pid:
            self._killed.add(member.name)
            member.kill()

    def _cut_short(self, seconds: float) -> None:
        limit = time.monotonic() + seconds
        self._deadline = limit if self._deadline is None else min(self._deadline, limit)
