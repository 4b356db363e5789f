"""Chat templates: a conversation as tokens, with a mask of those that the assistant wrote.

The assistant mask comes from the template itself: `{% generation %}` marks around each answer and its end-of-turn
token, which the draft must learn to predict as well. Shipped templates (see `chat_families`) equal the tokenizers' own,
with the marks added. `weight` and `finish_reason` of a message remove parts of its span. The tokenizer's offsets turn a
span of characters into one range of tokens.
"""

from __future__ import annotations

import copy
import hashlib
import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from hetspec_core.engine.data import chat_families
from hetspec_core.engine.data.conversation import Message
from hetspec_core.engine.tokenizer_check import first_fault
from hetspec_core.errors import DataError, NotFoundError

AUTO = "auto"
OWN = "own"
_SENTINEL = "hetspec-sentinel"
_DATE = "26 Jul 2024"  # Llama 3.2 writes today's date by default; a dataset must not depend on it


@dataclass(frozen=True)
class Encoded:
    """A conversation as tokens.

    Attributes:
        input_ids: [T] token ids.
        assistant_mask: [T], True where the assistant wrote the token (its end-of-turn token included).
    """

    input_ids: list[int]
    assistant_mask: list[bool]


@dataclass(frozen=True)
class ChatTemplate:
    """A template with generation marks, bound to a tokenizer. Made by `for_tokenizer`.

    Attributes:
        name: shipped family, `own` (the tokenizer's), or the file it came from.
        text: Jinja text.
        variables: values for rendering, in addition to the special tokens.
        tokenizer: a fast Hugging Face tokenizer.
    """

    name: str
    text: str
    variables: dict[str, Any]
    tokenizer: Any = field(repr=False)

    @classmethod
    def for_tokenizer(cls, tokenizer: Any, name: str = AUTO) -> ChatTemplate:
        """Choose a template for a tokenizer.

        Args:
            tokenizer: a fast Hugging Face tokenizer.
            name: a shipped family, `own`, a .jinja file, or `auto`: the tokenizer's own template if it has marks, else
                the shipped one that writes the same text as its own, else the one whose special tokens it has.

        Raises:
            NotFoundError: there is no such family or file.
            DataError: no shipped template fits, the tokenizer is not a fast one, or the template marks nothing.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise DataError(
                f"tokenizer {type(tokenizer).__name__} does not say which characters a token covers",
                hint="use a tokenizer with a tokenizer.json",
            )
        template = cls(*_choose(tokenizer, name), tokenizer)
        template.check()
        return template

    @property
    def hash(self) -> str:
        """Identity of what the template writes: 16 hex digits over its text, variables and special tokens."""
        content = json.dumps([self.text, self.variables, _special_tokens(self.tokenizer)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The conversation as text, special tokens written out."""
        return self._render(messages, add_generation_prompt)[0]

    def encode(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> Encoded:
        """The conversation as tokens, with the assistant's marked.

        A token is the assistant's when it begins inside a marked span: a token that begins in the prompt belongs to the
        prompt, as at inference. An answer of weight 0 has no marked token. Of an answer whose writer did not end the
        turn, the end-of-turn token is not marked.

        Args:
            messages: system message (if any) and turns.
            add_generation_prompt: end with the beginning of an answer.

        Raises:
            DataError: the template refuses the conversation, or marks it so that an answer of weight 0 or one that was
                cut cannot be distinguished from the others.
        """
        text, spans = self._render(messages, add_generation_prompt)
        try:
            spans = supervised_spans(text, spans, messages, lambda: self.answer_end)
        except ValueError as error:
            raise DataError(f"chat template {self.name} cannot be used for the conversation: {error}") from None
        tokens = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids: list[int] = tokens["input_ids"]
        begins = token_begins(text, ids, tokens["offset_mapping"], lambda: self._untrimmed)
        return Encoded(ids, token_mask(begins, spans))

    @cached_property
    def answer_end(self) -> str:
        """The text inside the marks after an answer, such as its end-of-turn token; empty when there is none."""
        text, spans = self._render([Message("user", "?"), Message("assistant", _SENTINEL)], False)
        where = text.find(_SENTINEL)
        return next((text[where + len(_SENTINEL) : end] for start, end in spans if start <= where < end), "")

    @cached_property
    def end_of_turn(self) -> int | None:
        """The special token that ends an answer; None when the template ends it with none."""
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        ids = self.tokenizer(self.answer_end, add_special_tokens=False)["input_ids"] if self.answer_end else []
        return next((token for token in ids if token in special), None)

    @cached_property
    def end_of_turn_text(self) -> str:
        """The text of `end_of_turn`; empty when there is none."""
        return "" if self.end_of_turn is None else self.tokenizer.convert_ids_to_tokens(self.end_of_turn)

    def complaint(self) -> str:
        """One sentence when the template writes another text than the tokenizer's own; else, or without one, empty.

        Compared are questions, answers, several turns, a system message, and answers with thinking.
        """
        own = _own_render(self.tokenizer)
        if own is None or self.name == OWN:
            return ""

        def ours(messages: chat_families.Messages, prompt: bool) -> str:
            tokens = _special_tokens(self.tokenizer)
            return chat_families.render(self.text, messages, prompt, **tokens, **self.variables)[0]

        if (found := chat_families.first_difference(ours, own)) is None:
            return ""
        sample, here, there = found
        return (
            f"chat template {self.name} writes another text than the tokenizer's own for {sample}: {here!r}, where the "
            f"own one has {there!r}; the draft learns the prompts of {self.name} (base.chat_template)"
        )

    @cached_property
    def _untrimmed(self) -> Any:
        return without_post_processor(self.tokenizer)

    def user_prefix(self, system: str | None = None) -> list[int]:
        """Token ids after which the base, left alone, writes a user's turn (Magpie, arXiv 2406.08464, section 2).

        Args:
            system: system prompt to begin with; the template's own default when None.
        """
        before, _ = self._around_user(system)
        return self.tokenizer(before, add_special_tokens=False)["input_ids"]

    def user_end(self) -> str:
        """The text that follows a user's turn, such as its end-of-turn token."""
        return self._around_user(None)[1].strip()

    def check(self) -> None:
        """Check that markers are tokens and answers are marked, before a model is loaded.

        Raises:
            DataError: the tokenizer does not know a marker of the template, the template begins with a bos token that
                the tokenizer lacks, or it marks no token of a probe answer.
        """
        probe = [Message("user", "How many?"), Message("assistant", "Seven of them."), Message("user", "Sure?")]
        vocabulary: Mapping[str, int] = self.tokenizer.get_vocab()
        fault = first_fault(self.tokenizer, chat_families.markers(self.name, self.render(probe), vocabulary))
        shipped = self.name in chat_families.FAMILIES
        if not fault and shipped and "bos_token" in self.text and not self.tokenizer.bos_token:
            fault = "it has no bos token, with which the template begins"
        if fault:
            raise DataError(
                f"the tokenizer does not fit chat template {self.name}: {fault}",
                hint="take the tokenizer files of the model's publisher, or choose another base.chat_template",
            )
        if not any(self.encode(probe).assistant_mask):
            raise DataError(
                f"chat template {self.name} marks no answer: there would be nothing to learn",
                hint="put {% generation %} and {% endgeneration %} around the answer and its end-of-turn token, or set "
                f"base.chat_template to one of {', '.join(chat_families.FAMILIES)}",
            )

    def _around_user(self, system: str | None) -> tuple[str, str]:
        messages = [Message("user", _SENTINEL)]
        if system is not None:
            messages.insert(0, Message("system", system))
        before, found, after = self._render(messages, False)[0].rpartition(_SENTINEL)
        if not found:
            raise DataError(f"chat template {self.name} does not write the user's turn")
        return before, after

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> tuple[str, list[tuple[int, int]]]:
        try:
            return chat_families.render(
                self.text,
                [message.as_dict() for message in messages],
                add_generation_prompt,
                **_special_tokens(self.tokenizer),
                **self.variables,
            )
        except TemplateError as error:
            raise DataError(
                f"chat template {self.name} refuses the conversation: {error}",
                hint="leave the system prompt out, or choose another base.chat_template",
            ) from error


def tokenizer_hash(tokenizer: Any) -> str:
    """Identity of a tokenizer: 16 hex digits over its tokenizer.json, without padding and truncation settings."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    for key in ("padding", "truncation"):
        content.pop(key, None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _choose(tokenizer: Any, name: str) -> tuple[str, str, dict[str, Any]]:
    own_text = _own_text(tokenizer)
    own = _own_render(tokenizer)
    tokens = _special_tokens(tokenizer)

    if name == OWN or (name == AUTO and own_text and chat_families.is_marked(own_text)):
        if not own_text:
            raise DataError("the tokenizer has no chat template of its own", hint=_choices())
        return OWN, own_text, {"date_string": _DATE, "enable_thinking": False}
    if name.endswith(".jinja"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise NotFoundError(f"no chat template {path}: there is no such file", hint=_choices())
        return name, path.read_text(encoding="utf-8"), {}
    if name not in (AUTO, *chat_families.FAMILIES):
        raise NotFoundError(f"no chat template {name!r}", hint=_choices())

    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    families = [name] if name != AUTO else chat_families.by_likelihood(vocabulary)
    if own and (found := chat_families.fitting(families, own, tokens)):
        return found[0], chat_families.template_text(found[0]), found[1]
    if name == AUTO and own_text:
        raise DataError(
            "no shipped chat template writes the same text as the tokenizer's own, which has no generation marks",
            hint=_choices(),
        )
    if name == AUTO:
        families = chat_families.families_by_vocabulary(vocabulary)
        if not families:
            raise DataError(
                "the tokenizer has no chat template, and special tokens of no known family", hint=_choices()
            )
    return families[0], chat_families.template_text(families[0]), next(chat_families.variants(families[0], None))


def _own_text(tokenizer: Any) -> str:
    templates = tokenizer.chat_template  # a text, or several by name
    return (templates.get("default") if isinstance(templates, dict) else templates) or ""


def _own_render(tokenizer: Any) -> chat_families.Render | None:
    """A function that renders with the tokenizer's own template, without thinking; None when it has none."""
    text, tokens = _own_text(tokenizer), _special_tokens(tokenizer)

    def own(messages: chat_families.Messages, prompt: bool) -> str:
        return chat_families.render(text, messages, prompt, **tokens, date_string=_DATE, enable_thinking=False)[0]

    return own if text else None


def _special_tokens(tokenizer: Any) -> dict[str, str]:
    return {"bos_token": tokenizer.bos_token or "", "eos_token": tokenizer.eos_token or ""}


def _choices() -> str:
    families = ", ".join(chat_families.FAMILIES)
    return f"set base.chat_template to one of {families}, or to a .jinja file with {{% generation %}} marks"


Span = tuple[int, int]


def supervised_spans(
    text: str, spans: Sequence[Span], messages: Sequence[Message], answer_end: Callable[[], str]
) -> list[Span]:
    """The spans of characters that are supervised, in order.

    Args:
        text: the rendered conversation.
        spans: (start, end) of every generation block of it.
        messages: the conversation. An answer of weight 0 is left out; of an answer whose writer did not end the turn
            (`finish_reason` other than "stop") the text is kept and `answer_end` after it is left out.
        answer_end: returns what the template writes inside a block after the answer's text.

    Raises:
        ValueError: part of an answer must be left out, and the blocks cannot be assigned to the answers.
    """
    answers = [message for message in messages if message.role == "assistant"]
    if all(message.weight and message.finish_reason == "stop" for message in answers):
        return list(spans)
    if len(spans) != len(answers):
        raise ValueError(f"it marks {len(spans)} spans for {len(answers)} answers, so that none can be left out")
    found: list[Span] = []
    for (start, end), message in zip(spans, answers, strict=True):
        if not message.weight:
            continue
        if message.finish_reason != "stop":
            if not text.endswith(answer_end(), start, end):
                raise ValueError("the end of a turn is not found behind an answer that was cut")
            end -= len(answer_end())
        found.append((start, end))
    return found


def token_mask(begins: Sequence[int], spans: Sequence[Span]) -> list[bool]:
    """[T] bool, True for tokens that begin inside a span.

    Args:
        begins: [T] where each token begins, not decreasing.
        spans: (start, end) characters.
    """
    mask = [False] * len(begins)
    for start, end in spans:
        first, last = bisect_left(begins, start), bisect_left(begins, end)
        mask[first:last] = [True] * (last - first)
    return mask


def token_begins(
    text: str, ids: Sequence[int], offsets: Sequence[Span], untrimmed_tokenizer: Callable[[], Any]
) -> list[int]:
    """[T] the character at which each token begins, not decreasing.

    Post-processors with `trim_offsets` remove spaces from the offsets: a token of spaces covers nothing, and " word"
    begins at its letter. Where the offsets leave characters uncovered, the offsets without the post-processor are used.
    A token that covers nothing even then begins where the token before it ends.

    Args:
        text: what was tokenized.
        ids: [T] its tokens.
        offsets: [T] (start, end) of each as the tokenizer gives them.
        untrimmed_tokenizer: returns `without_post_processor` of the tokenizer.
    """
    if _has_gaps(offsets, len(text)):
        untrimmed = untrimmed_tokenizer().encode(text, add_special_tokens=False)
        if untrimmed.ids == list(ids):
            offsets = untrimmed.offsets
    begins: list[int] = []
    begin = covered = 0
    for start, end in offsets:
        begin = max(begin, start if start < end else covered)
        covered = max(covered, end)
        begins.append(begin)
    return begins


def _has_gaps(offsets: Sequence[Span], length: int) -> bool:
    covered = 0
    for start, end in offsets:
        if start > covered or start >= end:
            return True
        covered = max(covered, end)
    return covered < length


def without_post_processor(tokenizer: Any) -> Any:
    """A copy of the tokenizer's Rust part whose offsets cover every character; padding and truncation are off."""
    made = copy.deepcopy(tokenizer.backend_tokenizer)
    made.post_processor = None
    made.no_padding()
    made.no_truncation()
    return made
