"""Adding up the progress of workers that share a task. It knows progress events only."""

from __future__ import annotations

from collections.abc import Mapping

from hetspec_core.events.models import Progress

Amounts = dict[str, tuple[float, float | None]]
"""Worker -> done and total of its share."""


class Tally:
    """How far shared tasks are, worker by worker and in all.

    Args:
        parts: what an earlier tally had found, as its `parts`.

    Attributes:
        parts: task -> worker -> (done, total).
    """

    def __init__(self, parts: Mapping[str, Mapping[str, tuple[float, float | None]]] | None = None) -> None:
        self.parts: dict[str, Amounts] = {task: dict(amounts) for task, amounts in (parts or {}).items()}

    def add(self, event: Progress) -> Progress:
        """Count one event in; returns how far the whole task is. One that is not shared comes back as it is.

        Workers that have said nothing yet are taken to have as much to do as the others have on the average, so the
        total is about right from the first word on.
        """
        if event.prepares:
            return event
        if event.workers <= 1:
            self.parts.pop(event.task, None)  # one worker does the task now
            return event
        amounts = self.parts.setdefault(event.task, {})
        amounts[event.worker] = (event.done, event.total)
        totals = [total for _, total in amounts.values() if total is not None]
        done, known = sum(done for done, _ in amounts.values()), len(totals) == len(amounts)
        total = sum(totals) * event.workers / len(amounts) if known else None
        if total is not None:
            total = float(round(total)) if len(amounts) < event.workers else total
        at_work = f"{len(amounts)} of {event.workers} workers" if len(amounts) < event.workers else ""
        return event.model_copy(update={"done": done, "total": total, "worker": "", "workers": 1, "note": at_work})

    def show(self, event: Progress) -> list[Progress]:
        """What a reader is shown of an event: of a shared task the worker's own progress, by name, and that of all."""
        if event.workers <= 1 or event.prepares:
            return [self.add(event)]
        own = event.model_copy(update={"task": f"{event.task} ({event.worker})", "workers": 1})
        return [own, self.add(event)]
