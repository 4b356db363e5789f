"""From a dataset spec to conversations: rows chosen, read in their format, and the broken ones counted by their place.

It knows rows and conversations; it knows no tokenizer and no model.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hetspec_core.engine.data.conversation import Conversation, RowError
from hetspec_core.engine.data.formats.row_format import AUTO, detect_format, format_names, load_format
from hetspec_core.engine.data.sources import Rows, open_rows
from hetspec_core.errors import DataError
from hetspec_core.spec import DatasetSpec

_SHOWN = 5  # broken rows that a message names
_DETECT_ROWS = 100


@dataclass(frozen=True)
class Malformed:
    """A row that could not be read."""

    place: str
    reason: str


@dataclass
class Reading:
    """What came of reading a dataset.

    Attributes:
        source: its name.
        format: the format it was read in.
        conversations: those that could be read.
        malformed: those that could not.
    """

    source: str
    format: str
    conversations: list[Conversation] = field(default_factory=list)
    malformed: list[Malformed] = field(default_factory=list)

    @property
    def complaint(self) -> str:
        """One sentence on the malformed rows, the first of them by line; empty when there is none."""
        if not self.malformed:
            return ""
        count = len(self.malformed)
        named = "; ".join(f"{item.place}: {item.reason}" for item in self.malformed[:_SHOWN])
        more = f"; and {count - _SHOWN} more" if count > _SHOWN else ""
        total = count + len(self.conversations)
        return f"{count} of {total} rows of {self.source} cannot be read as {self.format}: {named}{more}"


def read_conversations(spec: DatasetSpec) -> Reading:
    """Read the conversations that a spec asks for: shuffle, then range, then ids, then limit.

    Raises:
        NotFoundError: the source is not there.
        DataError: the source is of no known kind, no format fits it, the range lies outside, or every row is bad.
    """
    rows = open_rows(spec.source, split=spec.split)
    order = list(range(len(rows)))
    if spec.shuffle_seed is not None:
        random.Random(spec.shuffle_seed).shuffle(order)
    if spec.range is not None:
        order = order[spec.range[0] : spec.range[1]]
        if not order:
            raise DataError(
                f"dataset.range is {spec.range[0]}:{spec.range[1]}, but {spec.source} has {len(rows)} rows",
                hint=f"choose a range within 0:{len(rows)}",
            )
    name = _detect(rows, order) if spec.format == AUTO else spec.format
    row_format = load_format(name)
    reading = Reading(rows.name, name)
    wanted, seen = set(spec.sample_ids), []
    for index in order:
        if spec.limit is not None and len(reading.conversations) >= spec.limit:
            break
        try:
            conversation = row_format.read(rows.get(index))
        except RowError as error:
            reading.malformed.append(Malformed(rows.place(index), str(error)))
            continue
        if not conversation.id:
            conversation = Conversation(rows.place(index), conversation.messages, conversation.category)
        if wanted and conversation.id not in wanted:
            seen.append(conversation.id)
            continue
        reading.conversations.append(conversation)
    missing = wanted - {conversation.id for conversation in reading.conversations} if spec.limit is None else set()
    if missing or (wanted and not reading.conversations):
        raise DataError(
            f"{spec.source} has no conversation with id {', '.join(sorted(missing or wanted))}",
            hint=f"ids are id or question_id of a row, or its place; there are {', '.join(seen[:_SHOWN]) or 'none'}",
        )
    if not reading.conversations:
        raise DataError(reading.complaint, hint=f"set dataset.format to one of {', '.join(format_names())}")
    return reading


def _detect(rows: Rows, order: list[int]) -> str:
    reason = "no row is JSON"
    for index in order[:_DETECT_ROWS]:
        try:
            row = rows.get(index)
        except RowError as error:
            reason = f"{rows.place(index)}: {error}"
            continue
        if name := detect_format(row):
            return name
        keys = f"keys {', '.join(map(str, row))}" if isinstance(row, dict) else f"a {type(row).__name__}"
        reason = f"{rows.place(index)} has {keys}"
    raise DataError(
        f"the format of {rows.name} is not known: {reason}",
        hint="rows need `conversations`, `messages`, `turns`, `prompt` or `text`; see docs/datasets.md",
    )
