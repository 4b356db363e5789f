"""Answers written by the base: every user turn of every conversation, many at a time, turn after turn.

A finished turn is a line of `conversations.jsonl` in the run folder, with its tokens exactly as the base chose them. A
resumed run answers only what has no line yet. The file has the messages form, so it can be a source of its own. Of
several workers each answers the conversations of its share, in a file of its own, until all lines come together.

An answer ends at a stop token of the base or at the template's end of turn, whichever comes first, and at the latest
where the conversation reaches its longest length. Where the base did not write the template's end of turn, later turns
still have it behind the answer, and it is not supervised: `finish_reason` of the message says so.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hetspec_core.engine.context import RunContext
from hetspec_core.engine.data.chat import ChatTemplate, Encoded
from hetspec_core.engine.data.conversation import Conversation, FinishReason, Message
from hetspec_core.engine.data.items import ItemList, content_id
from hetspec_core.engine.data.shares import AppendLog, Workplace
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.errors import DataError

_TASK = "answers"
_LOG = "conversations.jsonl"


@dataclass(frozen=True)
class _Answered:
    """A conversation as far as it is answered.

    Attributes:
        conversation: the questions.
        turns: answered user turns.
        messages: questions and answers so far.
        encoded: their tokens, the last answer as the base wrote it; empty before the first.
    """

    conversation: Conversation
    turns: int
    messages: tuple[Message, ...]
    encoded: Encoded


def answer_conversations(
    context: RunContext,
    load: Callable[[], BaseLM],
    template: ChatTemplate,
    conversations: list[Conversation],
    place: Workplace,
    *,
    base_fingerprint: str,
    settings: Mapping[str, Any],
    max_length: int,
    part: tuple[int, int] = (1, 1),
) -> ItemList:
    """Have the base answer conversations, and give them as items to capture; of a share, only its own.

    Args:
        context: the run.
        load: gives the base; called when there is something to answer.
        template: of the base.
        conversations: all of them.
        place: where answers are kept.
        base_fingerprint, settings, max_length: what decides the answers besides.
        part: which part of the run's work this is, of how many.

    Raises:
        DataError: no conversation leaves room for an answer.
        Cancelled: the run was asked to stop; finished answers are kept.
    """
    found = ItemList()
    states: dict[str, _Answered] = {}
    questions = [conversation.without_answers() for conversation in conversations]
    names = [
        content_id(
            conversation.messages, template_hash=template.hash, base_fingerprint=base_fingerprint, settings=settings
        )
        for conversation in questions
    ]
    mine = context.share.pick(names)
    for name, conversation in zip(names, questions, strict=True):
        if name not in mine:
            continue
        if name in states:
            found.dropped["said before, word for word"] += 1
            continue
        states[name] = _Answered(conversation, 0, (), Encoded([], []))
    with place.open_log(_LOG, lambda record: (record["id"], record["turn"])) as log:
        for record in [*log.records, *([] if context.share.is_whole else place.records_of_others(_LOG))]:
            _take_up(states, record)
        total = sum(len(state.conversation.user_turns) for state in states.values())
        refused = _Answering(context, load, template, states, log, total, max_length, part).run()
    for name, state in states.items():
        if name in refused:
            found.refuse(state.conversation.id, refused[name])
        elif state.turns == 0:
            found.dropped[f"no room for an answer within {max_length} tokens"] += 1
        else:
            found.unasked += len(state.conversation.user_turns) - state.turns
        if state.turns:
            _count_answers(found, state, max_length)
            found.add(name, state.encoded, max_length=max_length)
    if context.share.is_whole:
        found.check(context.spec.dataset.source, max_length=max_length)
    return found


class _Answering:
    """One pass over all turns."""

    def __init__(
        self,
        context: RunContext,
        load: Callable[[], BaseLM],
        template: ChatTemplate,
        states: dict[str, _Answered],
        log: AppendLog,
        total: int,
        max_length: int,
        part: tuple[int, int],
    ) -> None:
        self.part = part
        self.context, self.load, self.template = context, load, template
        self.states, self.log, self.total, self.max_length = states, log, total, max_length
        self._prompts: dict[str, tuple[tuple[Message, ...], Encoded]] = {}
        self._refused: dict[str, str] = {}

    def run(self) -> dict[str, str]:
        """Answer what has no answer yet; returns why the template refuses a conversation, by its content id."""
        from hetspec_core.engine.decoding.fast import open_decoder

        spec = self.context.spec.dataset
        done = sum(state.turns for state in self.states.values())
        self.context.progress(_TASK, done, self.total, "turns", part=self.part)
        started, tokens_written = time.perf_counter(), 0
        decoder = None
        turns = max((len(state.conversation.user_turns) for state in self.states.values()), default=0)
        for turn in range(turns):
            prompts = self._ask(turn)
            if not prompts:
                continue
            base = self.load()
            end = self.template.end_of_turn
            stops = base.stop_ids if end is None else base.stop_ids | {end}
            decoder = decoder or open_decoder(base, self.context.spec.resources.decoder)
            written = decoder.write_answers(
                prompts,
                spec.sampling,
                spec.max_new_tokens,
                spec.generation_batch,
                seed_of=lambda name, turn=turn: _seed(name, turn),
                stop_ids=stops,
                max_length=self.max_length,
            )
            for name, answer in written:
                self._keep(base, name, turn, answer, stops)
                done += 1
                tokens_written += len(answer)
                rate = tokens_written / (time.perf_counter() - started)
                self.context.progress(_TASK, done, self.total, "turns", f"{rate:.0f} tokens/s", part=self.part)
                self.context.check_cancelled()
        self.context.progress(_TASK, self.total, self.total, "turns", part=self.part)
        return self._refused

    def _ask(self, turn: int) -> list[tuple[str, list[int]]]:
        """The prompts of one turn, longest first, so that no row waits for a long one at the end."""
        prompts: list[tuple[str, list[int]]] = []
        for name, state in self.states.items():
            questions = state.conversation.user_turns
            if state.turns != turn or turn >= len(questions):
                continue
            before = state.messages
            if turn == 0:
                before = tuple(m for m in state.conversation.messages if m.role == "system")
            messages = (*before, Message("user", questions[turn]))
            try:
                encoded = self.template.encode(messages, add_generation_prompt=True)
            except DataError as error:
                self._refused[name] = error.message
                continue
            if len(encoded.input_ids) < self.max_length - 1:
                self._prompts[name] = (messages, encoded)
                prompts.append((name, encoded.input_ids))
        prompts.sort(key=lambda item: -len(item[1]))
        return prompts

    def _keep(self, base: BaseLM, name: str, turn: int, answer: list[int], stops: frozenset[int]) -> None:
        messages, prompt = self._prompts.pop(name)
        has_stopped = bool(answer) and answer[-1] in stops
        words = answer[:-1] if has_stopped else answer
        text: str = base.tokenizer.decode(words, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        reason: FinishReason = "length"
        if not has_stopped:
            text = text.rstrip("\ufffd")  # the cut may go through the bytes of a character
        else:
            reason = "stop" if answer[-1] == self.template.end_of_turn else "other_stop_token"
        state = self.states[name]
        state = replace(
            state,
            turns=turn + 1,
            messages=(*messages, Message("assistant", text.strip(), finish_reason=reason)),
            encoded=Encoded(prompt.input_ids + answer, prompt.assistant_mask + [True] * len(answer)),
        )
        self.states[name] = state
        self.log.append(
            {
                "id": name,
                "name": state.conversation.id,
                "category": state.conversation.category,
                "turn": turn + 1,
                "messages": [message.as_row() for message in state.messages],
                "input_ids": state.encoded.input_ids,
                "answers": _spans(state.encoded.assistant_mask),
            }
        )


def _take_up(states: dict[str, _Answered], record: dict[str, Any]) -> None:
    """Restore an answer from a line of an earlier attempt."""
    try:
        name, turn = record["id"], int(record["turn"])
        ids = [int(token) for token in record["input_ids"]]
        messages = tuple(
            Message(message["role"], message["content"], finish_reason=message.get("finish_reason", "stop"))
            for message in record["messages"]
        )
        mask = [False] * len(ids)
        for start, end in record["answers"]:
            mask[start:end] = [True] * (end - start)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"conversations.jsonl of the run has a line of another form: {error!r}") from error
    state = states.get(name)
    if state is not None and turn > state.turns:
        states[name] = replace(state, turns=turn, messages=messages, encoded=Encoded(ids, mask))


def _count_answers(found: ItemList, state: _Answered, max_length: int) -> None:
    """Count the answers of a conversation, and those that were cut by the setting that cut them."""
    answers = [message for message in state.messages if message.role == "assistant"]
    found.answers += len(answers)
    cut = sum(message.finish_reason == "length" for message in answers)
    if cut and answers[-1].finish_reason == "length" and len(state.encoded.input_ids) >= max_length:
        found.cut_answers["dataset.max_length"] += 1
        cut -= 1
    if cut:
        found.cut_answers["dataset.max_new_tokens"] += cut


def _spans(mask: list[bool]) -> list[list[int]]:
    """[start, end) of every run of True."""
    edges = [
        index
        for index in range(len(mask) + 1)
        if (index < len(mask) and mask[index]) != (index > 0 and mask[index - 1])
    ]
    return [list(pair) for pair in zip(edges[::2], edges[1::2], strict=True)]


def _seed(name: str, turn: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{name}:{turn}".encode()).digest()[:6], "big")
