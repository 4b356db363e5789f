"""Texts that the base writes for a dataset: prompts, where no data is given, and answers to every user turn.

Prompts: the base continues the beginning of a user's turn (Magpie, arXiv 2406.08464). Every attempt is kept in the run
folder, numbered and with a seed of its own: a resumed run continues with the next number and gives the same prompts. Of
several workers each makes the attempts of its own numbers and waits for those of the others, so that all get the
prompts that one worker would get. A prompt is kept when it is complete, of a sensible length, not degenerate and not a
repetition.

Answers: many conversations at a time, turn after turn. A finished turn is a line of `conversations.jsonl` in the run
folder, with the token ids that the base chose. A resumed run answers only turns that have no line yet. The file has the
messages form, so it can be a source itself. Of several workers each answers the conversations of its share into a file
of its own; the last worker collects all lines. An answer ends at a stop token of the base or at the template's end of
turn, whichever comes first, and at the latest at the longest length of a conversation. Where the base did not write the
template's end of turn, later turns still have it after the answer, and it is not supervised: `finish_reason` of the
message says so.
"""

from __future__ import annotations

import hashlib
import re
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from hetspec_core.engine.context import RunContext
from hetspec_core.engine.data.chat import ChatTemplate, Encoded
from hetspec_core.engine.data.conversation import Conversation, FinishReason, Message
from hetspec_core.engine.data.items import Identify, ItemList
from hetspec_core.engine.data.shares import AppendLog, Workplace
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.errors import DataError

DEFAULT_PROMPTS = 400
MAX_PROMPT_TOKENS = 256
MIN_CHARACTERS = 12
MIN_WORDS = 3
MAX_CHARACTERS = 2000
_MARKUP = re.compile(r"<\|[^|>]{1,40}\|>|\[/?INST\]|<<?/?SYS>?>|<(start|end)_of_turn>|</?s>|�")
_LONG_RUN = re.compile(r"(\S)\1{11,}")
_LEAST_DISTINCT = 0.35  # distinct words of all words; natural prompts of this length lie above 0.5
_LEAST_LETTERS = 0.2
_ATTEMPTS_PER_PROMPT = 5  # more would bring little, because the base repeats itself
_WAIT_S = 0.5  # between looks at the attempts of the other workers
_PROMPTS, _ANSWERS = "prompts", "answers"  # names of the tasks
_PROMPT_LOG, _ANSWER_LOG = "prompts.jsonl", "conversations.jsonl"


def normalise(text: str) -> str:
    """Letters and digits in lower case, equal for prompts that are the same to a reader."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded))


def fault(text: str, *, finished: bool) -> str:
    """Why a prompt is not kept; empty when it is."""
    words = text.split()
    if not finished or len(text) > MAX_CHARACTERS:
        return "too long"
    if len(text) < MIN_CHARACTERS or len(words) < MIN_WORDS:
        return "too short"
    if _MARKUP.search(text):
        return "markup of the template in it"
    letters = sum(character.isalpha() for character in text)
    lower = [word.casefold() for word in words]
    repeats = len(words) >= 20 and len(set(lower)) / len(lower) < _LEAST_DISTINCT
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    stutters = len(lines) >= 4 and len(set(lines)) <= len(lines) // 2
    if repeats or stutters or _LONG_RUN.search(text) or letters / len(text) < _LEAST_LETTERS:
        return "degenerate"
    return ""


class PromptSieve:
    """Keeps the good ones of a series of prompts, each once.

    Attributes:
        kept: prompts that passed, in the order they came.
        dropped: reason -> how many.
    """

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.dropped: dict[str, int] = {}
        self._seen: set[str] = set()

    def add(self, text: str, *, finished: bool) -> bool:
        """Check a prompt; returns whether it was kept."""
        text = text.strip()
        reason = fault(text, finished=finished)
        key = normalise(text)
        if not reason and key in self._seen:
            reason = "repeated"
        if reason:
            self.dropped[reason] = self.dropped.get(reason, 0) + 1
            return False
        self._seen.add(key)
        self.kept.append(text)
        return True


def write_prompts(
    context: RunContext,
    load: Callable[[], BaseLM],
    template: ChatTemplate,
    place: Workplace,
    *,
    part: tuple[int, int] = (1, 1),
) -> list[Conversation]:
    """Have the base write prompts until there are `dataset.limit` (or 400) good ones, or too many attempts.

    Args:
        context: the run.
        load: returns the base; called when there is something to write.
        template: of the base.
        place: keeps the attempts.
        part: number of this task among those of the run, and their count.

    Raises:
        DataError: not one attempt gave a usable prompt.
        Cancelled: the run was asked to stop; what was written is kept.
    """
    from hetspec_core.engine.decoding.opening import open_decoder

    spec = context.spec.dataset
    goal = spec.limit or DEFAULT_PROMPTS
    most = goal * _ATTEMPTS_PER_PROMPT + spec.generation_batch
    prefix = template.user_prefix(context.spec.base.system_prompt)
    share = context.share
    with place.open_log(_PROMPT_LOG, lambda record: record["attempt"]) as log:
        decoder = None
        done: dict[int, dict[str, Any]] = {int(record["attempt"]): record for record in log.records}
        while True:
            if not share.is_whole:
                done |= {int(record["attempt"]): record for record in place.records_of_others(_PROMPT_LOG)}
            sieve, looked_at = _sift(done, goal)
            if len(sieve.kept) >= goal or looked_at >= most:
                break
            missing = goal - len(sieve.kept)
            wave = range(looked_at, min(most, looked_at + max(missing, spec.generation_batch * share.count)))
            own = [number for number in wave if number not in done and number % share.count == share.number]
            if not own:
                context.check_cancelled()
                time.sleep(_WAIT_S)
                continue
            base = load()
            ends = _EndOfTurn(template, base)
            decoder = decoder or open_decoder(base, context.spec.resources.decoder)
            written = decoder.write_answers(
                ((number, prefix) for number in own),
                spec.prompt_sampling,
                MAX_PROMPT_TOKENS,
                spec.generation_batch,
                seed_of=lambda number: number,
                stop_ids=ends.stops,
            )
            good = len(sieve.kept)  # so far; repetitions within the wave are found when it is complete
            for number, tokens in written:
                text, finished = ends.cut(tokens)
                good += not fault(text, finished=finished)
                record = {"attempt": number, "text": text, "finished": finished}
                log.append(record)
                done[number] = record
                own_goal = max(1, goal // share.count)
                so_far = min(own_goal - 1, good)
                context.progress(_PROMPTS, so_far, own_goal, "prompts", f"{len(done)} attempts", part=part)
                context.check_cancelled()
    dropped = ", ".join(f"{reason}: {count}" for reason, count in sieve.dropped.items()) or "none"
    own_goal = max(1, goal // share.count)
    context.progress(_PROMPTS, own_goal, own_goal, "prompts", f"{looked_at} attempts", part=part)
    if share.number == 0:
        context.log(f"the base wrote {len(sieve.kept)} prompts in {looked_at} attempts; dropped: {dropped}")
    if not sieve.kept:
        raise DataError(
            f"{context.spec.base.name} wrote no usable prompt in {looked_at} attempts (dropped: {dropped})",
            hint="set dataset.prompt_sampling, or take the prompts from elsewhere: dataset.source = 'shipped:prompts'",
        )
    if len(sieve.kept) < goal and share.number == 0:
        context.log(f"asked for {goal} prompts; the base repeats itself, so it stays at {len(sieve.kept)}", "warning")
    system = context.spec.base.system_prompt
    return [
        Conversation(f"self {number}", (Message("user", text),), "self").with_system(system)
        for number, text in enumerate(sieve.kept)
    ]


def _sift(done: dict[int, dict[str, Any]], goal: int) -> tuple[PromptSieve, int]:
    """Check the attempts in the order of their numbers, up to the goal or the first that is missing."""
    sieve = PromptSieve()
    number = 0
    while number in done and len(sieve.kept) < goal:
        sieve.add(str(done[number]["text"]), finished=bool(done[number]["finished"]))
        number += 1
    return sieve, number


class _EndOfTurn:
    """Where a user's turn ends: at a stop token, or at what the template writes after a user's turn."""

    def __init__(self, template: ChatTemplate, base: BaseLM) -> None:
        self._tokenizer = base.tokenizer
        self._marker = template.user_end()
        marker_ids = self._tokenizer(self._marker, add_special_tokens=False)["input_ids"] if self._marker else []
        single = {marker_ids[0]} if marker_ids and marker_ids[0] in self._tokenizer.all_special_ids else set()
        self.stops = base.stop_ids | single

    def cut(self, tokens: list[int]) -> tuple[str, bool]:
        """The text of the turn, and whether it was ended."""
        end = next((index for index, token in enumerate(tokens) if token in self.stops), None)
        text: str = self._tokenizer.decode(tokens[:end], clean_up_tokenization_spaces=False)
        before, marker, _ = text.partition(self._marker) if self._marker else (text, "", "")
        return before.strip(), end is not None or bool(marker)


@dataclass(frozen=True)
class _Answered:
    """A conversation with the answers so far.

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
    identify: Identify,
    *,
    max_length: int,
    part: tuple[int, int] = (1, 1),
) -> ItemList:
    """Have the base answer conversations, and return them as items to capture; of a share, only its own.

    Args:
        context: the run.
        load: returns the base; called when there is something to answer.
        template: of the base.
        conversations: all of them.
        place: keeps the answers.
        identify: messages -> content id.
        max_length: most tokens of a conversation.
        part: number of this task among those of the run, and their count.

    Raises:
        DataError: no conversation leaves room for an answer.
        Cancelled: the run was asked to stop; finished answers are kept.
    """
    found = ItemList()
    states: dict[str, _Answered] = {}
    questions = [conversation.without_answers() for conversation in conversations]
    names = [identify(conversation.messages) for conversation in questions]
    mine = context.share.pick(names)
    for name, conversation in zip(names, questions, strict=True):
        if name not in mine:
            continue
        if name in states:
            found.dropped["repeated word for word"] += 1
            continue
        states[name] = _Answered(conversation, 0, (), Encoded([], []))
    with place.open_log(_ANSWER_LOG, lambda record: (record["id"], record["turn"])) as log:
        for record in [*log.records, *([] if context.share.is_whole else place.records_of_others(_ANSWER_LOG))]:
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


@dataclass
class _Answering:
    """One pass over all turns."""

    context: RunContext
    load: Callable[[], BaseLM]
    template: ChatTemplate
    states: dict[str, _Answered]
    log: AppendLog
    total: int
    max_length: int
    part: tuple[int, int]
    _prompts: dict[str, tuple[tuple[Message, ...], Encoded]] = field(default_factory=dict)
    _refused: dict[str, str] = field(default_factory=dict)

    def run(self) -> dict[str, str]:
        """Answer the open turns; returns why the template refuses a conversation, by its content id."""
        from hetspec_core.engine.decoding.opening import open_decoder

        spec = self.context.spec.dataset
        done = sum(state.turns for state in self.states.values())
        self.context.progress(_ANSWERS, done, self.total, "turns", part=self.part)
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
                self.context.progress(_ANSWERS, done, self.total, "turns", f"{rate:.0f} tokens/s", part=self.part)
                self.context.check_cancelled()
        self.context.progress(_ANSWERS, self.total, self.total, "turns", part=self.part)
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
    """Count the answers of a conversation, and the cut ones by the setting that cut them."""
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
