"""Prompts written by the base itself: it continues the beginning of a user's turn (Magpie, arXiv 2406.08464).

So a dataset in the base's own manner needs no data at all. Every attempt is kept in the run folder, numbered and with a
seed of its own: a resumed run continues with the next number and gives the same prompts. Of several workers each makes
the attempts whose numbers are its own and waits for those of the others, so that all get the same prompts as one worker
would. A prompt is kept when it is complete, of a sensible length, not degenerate and not a repetition.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Callable
from typing import Any

from hetspec_core.engine.context import RunContext
from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.data.conversation import Conversation, Message
from hetspec_core.engine.data.shares import Workplace
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.errors import DataError

MIN_CHARACTERS = 12
MIN_WORDS = 3
MAX_CHARACTERS = 2000
_MARKUP = re.compile(r"<\|[^|>]{1,40}\|>|\[/?INST\]|<<?/?SYS>?>|<(start|end)_of_turn>|</?s>|�")
_LONG_RUN = re.compile(r"(\S)\1{11,}")
_LEAST_DISTINCT = 0.35  # distinct words of all words; natural prompts of this length lie above 0.5
_LEAST_LETTERS = 0.2


def normalise(text: str) -> str:
    """What two prompts have in common when they are the same to a reader: letters and digits, in lower case."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded))


def fault(text: str, *, finished: bool) -> str:
    """Why a prompt is not kept; empty when it is.

    Args:
        text: the prompt, stripped.
        finished: whether its writer came to the end of the turn.
    """
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
    """Takes prompts one after another and keeps the good ones, each once.

    Attributes:
        kept: prompts that passed, in the order they came.
        dropped: reason -> how many.
    """

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.dropped: dict[str, int] = {}
        self._seen: set[str] = set()

    def add(self, text: str, *, finished: bool) -> bool:
        """Look at a prompt; returns whether it was kept."""
        text = text.strip()
        reason = fault(text, finished=finished)
        key = normalise(text)
        if not reason and key in self._seen:
            reason = "said before"
        if reason:
            self.dropped[reason] = self.dropped.get(reason, 0) + 1
            return False
        self._seen.add(key)
        self.kept.append(text)
        return True


DEFAULT_PROMPTS = 400
MAX_PROMPT_TOKENS = 256
_ATTEMPTS_PER_PROMPT = 5  # then the base repeats itself and more attempts would bring little
_TASK = "prompts"
_LOG = "prompts.jsonl"
_WAIT_S = 0.5  # between looks at the attempts of the other workers


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
        load: gives the base; called when there is something to write.
        template: of the base.
        place: where attempts are kept.
        part: which part of the run's work this is, of how many.

    Raises:
        DataError: not one attempt gave a usable prompt.
        Cancelled: the run was asked to stop; what was written is kept.
    """
    from hetspec_core.engine.decoding.fast import open_decoder

    spec = context.spec.dataset
    goal = spec.limit or DEFAULT_PROMPTS
    most = goal * _ATTEMPTS_PER_PROMPT + spec.generation_batch
    prefix = template.user_prefix(context.spec.base.system_prompt)
    share = context.share
    with place.open_log(_LOG, lambda record: record["attempt"]) as log:
        decoder = None
        done: dict[int, dict[str, Any]] = {int(record["attempt"]): record for record in log.records}
        while True:
            if not share.is_whole:
                done |= {int(record["attempt"]): record for record in place.records_of_others(_LOG)}
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
                context.progress(_TASK, so_far, own_goal, "prompts", f"{len(done)} attempts", part=part)
                context.check_cancelled()
    dropped = ", ".join(f"{reason}: {count}" for reason, count in sieve.dropped.items()) or "none"
    own_goal = max(1, goal // share.count)
    context.progress(_TASK, own_goal, own_goal, "prompts", f"{looked_at} attempts", part=part)
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
    """Look at the attempts in the order of their numbers, up to the goal or the first that is missing."""
    sieve = PromptSieve()
    number = 0
    while number in done and len(sieve.kept) < goal:
        sieve.add(str(done[number]["text"]), finished=bool(done[number]["finished"]))
        number += 1
    return sieve, number


class _EndOfTurn:
    """Where a user's turn ends: at a stop token, or at what the template writes after a user's turn.

    Attributes:
        stops: tokens that end it.
    """

    def __init__(self, template: ChatTemplate, base: BaseLM) -> None:
        self._tokenizer = base.tokenizer
        self._marker = template.user_end()
        marker_ids = self._tokenizer(self._marker, add_special_tokens=False)["input_ids"] if self._marker else []
        single = {marker_ids[0]} if marker_ids and marker_ids[0] in self._tokenizer.all_special_ids else set()
        self.stops = base.stop_ids | single

    def cut(self, tokens: list[int]) -> tuple[str, bool]:
        """The text of the turn, and whether it came to its end."""
        end = next((index for index, token in enumerate(tokens) if token in self.stops), None)
        text: str = self._tokenizer.decode(tokens[:end], clean_up_tokenization_spaces=False)
        before, marker, _ = text.partition(self._marker) if self._marker else (text, "", "")
        return before.strip(), end is not None or bool(marker)
