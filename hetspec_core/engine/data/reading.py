"""From a dataset spec to conversations: rows chosen, read in their format, and the broken ones counted by their place.

It knows rows and conversations; it knows no tokenizer and no model.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hetspec_core.engine.data.conversation import UNSET, Conversation, RowError, UnusedField, label, shortened
from hetspec_core.engine.data.formats import AUTO, detect_format, format_names, load_format
from hetspec_core.engine.data.sources import Rows, open_rows
from hetspec_core.errors import DataError
from hetspec_core.spec import DatasetSpec

_SHOWN = 5  # broken rows that a message names
_NAMED = 12  # keys that a message names
_DETECT_ROWS = 100


@dataclass(frozen=True)
class Malformed:
    """A row that could not be read."""

    place: str
    reason: str


@dataclass
class DatasetReading:
    """The result of reading a dataset.

    Attributes:
        source: its name.
        format: the format it was read in.
        conversations: those that could be read.
        malformed: those that could not.
        unused: fields of the conversations' rows that were not read -> how many rows have them.
    """

    source: str
    format: str
    conversations: list[Conversation] = field(default_factory=list)
    malformed: list[Malformed] = field(default_factory=list)
    unused: Counter[UnusedField] = field(default_factory=Counter)

    @property
    def num_answers(self) -> int:
        """Turns of the assistant in all conversations."""
        return sum(message.role == "assistant" for c in self.conversations for message in c.messages)

    def add(self, conversation: Conversation) -> None:
        """Take a conversation, and count the fields of its row that were not read."""
        self.conversations.append(conversation)
        self.unused.update(conversation.unused)

    def unused_counts(self, *, answers: bool, matters: bool | None = None) -> dict[str, int]:
        """Fields that were not read -> rows: `tools`, `name of a question`, `tool_calls of an answer`.

        Args:
            answers: whether the answers of the rows are used; fields of theirs count only then.
            matters: only the fields that are known to change the meaning, only the others, or all.
        """
        found: dict[str, int] = {}
        for unused, count in self.unused.most_common():
            if (unused.place != "answer" or answers) and matters in (None, unused.matters):
                article = "an" if unused.place == "answer" else "a"
                found[unused.name + (f" of {article} {unused.place}" if unused.place != "row" else "")] = count
        return found

    def warning(self, *, answers: bool) -> str:
        """One sentence on the fields that were not read and change the meaning; empty when there is none."""
        named = _named(self.unused_counts(answers=answers, matters=True))
        return (
            f"fields of {self.source} that are not read, and change what was asked or answered: {named}"
            if named
            else ""
        )

    def remark(self, *, answers: bool) -> str:
        """One sentence on the other fields that were not read; empty when there is none."""
        named = _named(self.unused_counts(answers=answers, matters=False))
        return f"other fields of {self.source} that are not read: {named}" if named else ""

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


def read_conversations(spec: DatasetSpec) -> DatasetReading:
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
    reading = DatasetReading(rows.name, name)
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
            conversation = replace(conversation, id=rows.place(index))
        if wanted and conversation.id not in wanted:
            seen.append(conversation.id)
            continue
        reading.add(conversation)
    missing = wanted - {conversation.id for conversation in reading.conversations} if spec.limit is None else set()
    if missing or (wanted and not reading.conversations):
        raise DataError(
            f"{spec.source} has no conversation with id {', '.join(sorted(missing or wanted))}",
            hint=f"ids are id or question_id of a row, or its place; there are {', '.join(seen[:_SHOWN]) or 'none'}",
        )
    if not reading.conversations:
        raise DataError(reading.complaint, hint=f"set dataset.format to one of {', '.join(format_names())}")
    return reading


def _named(counts: Mapping[str, int]) -> str:
    names = [f"{name} ({count} row{'s' if count != 1 else ''})" for name, count in counts.items()]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _detect(rows: Rows, order: list[int]) -> str:
    """The format that most of the first rows have. Rows without a turn have none."""
    reason = "no row is JSON"
    found: Counter[str] = Counter()
    for index in order[:_DETECT_ROWS]:
        try:
            row = rows.get(index)
        except RowError as error:
            reason = f"{rows.place(index)}: {error}"
            continue
        if name := detect_format(row):
            found[name] += 1
            continue
        keys = f"keys {_keys(row)}" if isinstance(row, dict) else f"a {type(row).__name__}"
        reason = f"{rows.place(index)} has {keys}" + (", and no turn" if _is_empty(row) else "")
    if found:
        return found.most_common(1)[0][0]
    raise DataError(
        f"the format of {rows.name} is not known: {reason}",
        hint="rows need `conversations`, `messages`, `turns`, `prompt` or `text`; see docs/datasets.md",
    )


def _keys(row: Mapping[str, object]) -> str:
    names = [shortened(label(key)) for key in row]
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _is_empty(row: object) -> bool:
    return not row or (isinstance(row, dict) and any(value in UNSET for value in row.values()))
