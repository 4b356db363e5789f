"""The shipped chat templates, and which of them is a tokenizer's own template with the answers marked.

A family is one Jinja file with variables; a variant is one setting of them. A variant fits when it writes probe
conversations exactly as the tokenizer's own template does.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

_FOLDER = Path(__file__).parent / "templates"
FAMILIES = ("chatml", "qwen3", "llama2", "llama3", "mistral", "gemma", "sglang")

Messages = Sequence[Mapping[str, str]]
Variables = dict[str, Any]
Render = Callable[[Messages, bool], str]

_USER: dict[str, str] = {"role": "user", "content": "What is up?"}
_PADDED: dict[str, str] = {"role": "user", "content": " \nspaces around\n "}
_ANSWER: dict[str, str] = {"role": "assistant", "content": "\n The sky is. \n"}
_SYSTEM: dict[str, str] = {"role": "system", "content": "Be brief."}
_PROBES: tuple[tuple[list[dict[str, str]], bool], ...] = (
    ([_USER], True),
    ([_USER, _ANSWER], False),
    ([_PADDED, _ANSWER, _USER, _ANSWER], False),
    ([_USER, _ANSWER, _PADDED], True),
    ([_SYSTEM, _USER], True),
    ([_SYSTEM, _USER, _ANSWER, _USER], True),
)
_THOUGHT: dict[str, str] = {"role": "assistant", "content": "<think>\nBlue or grey?\n</think>\n\nThe sky is."}
_SAMPLES: tuple[tuple[str, list[dict[str, str]], bool], ...] = (
    ("a question", [_USER], True),
    ("an answer", [_USER, _ANSWER], False),
    ("two turns", [_USER, _ANSWER, _USER, _ANSWER], False),
    ("a second question", [_USER, _ANSWER, _PADDED], True),
    ("a system message", [_SYSTEM, _USER], True),
    ("an answer with thinking", [_USER, _THOUGHT], False),
    ("thinking in an earlier turn", [_USER, _THOUGHT, _USER, _THOUGHT], False),
    ("a question behind an answer with thinking", [_USER, _THOUGHT, _USER], True),
)
_EXCERPT = 48  # characters of a difference that are shown

_MISTRAL: tuple[Variables, ...] = (  # v0.3, Nemo, v0.2, the later form of v0.1 and v0.2, v0.1
    {"user_open": "[INST] ", "user_close": "[/INST]", "answer_open": " ", "answer_close": "", "system_turn": "last"},
    {"user_open": "[INST]", "user_close": "[/INST]", "answer_open": "", "answer_close": "", "system_turn": "last"},
    {"user_open": "[INST] ", "user_close": " [/INST]", "answer_open": "", "answer_close": "", "system_turn": "refuse"},
    {"user_open": " [INST] ", "user_close": " [/INST]", "answer_open": " ", "answer_close": "", "system_turn": "first"},
    {"user_open": "[INST] ", "user_close": " [/INST]", "answer_open": "", "answer_close": " ", "system_turn": "refuse"},
)


_MARKERS: dict[str, tuple[str, ...]] = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "qwen3": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
}
_MARKER_SHAPE = re.compile(r"<\|[^<>|\s]+\|>|</?[A-Za-z_]+>|\[/?[A-Z_]+\]")


def markers(family: str, written: str, vocabulary: Mapping[str, int]) -> tuple[str, ...]:
    """Texts of a template that must be one token each.

    Args:
        family: a shipped family; any other name means a template of the user.
        written: a conversation as the template writes it.
        vocabulary: of the tokenizer. Markers of a user's template count when they are in it, because some models write
            theirs as ordinary text.
    """
    found = [marker for marker in _MARKER_SHAPE.findall(written) if marker in vocabulary]
    return tuple(dict.fromkeys((*_MARKERS.get(family, ()), *found)))


@cache
def template_text(family: str) -> str:
    """The Jinja text of a family."""
    return (_FOLDER / f"{family}.jinja").read_text(encoding="utf-8")


def render(text: str, messages: Messages, add_generation_prompt: bool, **variables: Any) -> tuple[str, list[Any]]:
    """Render a conversation.

    Returns:
        The text, and the (start, end) character spans of `{% generation %}` blocks.

    Raises:
        jinja2.TemplateError: the template refuses the conversation, or is broken.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, spans = render_jinja_template(
        conversations=[[dict(message) for message in messages]],
        chat_template=text,
        return_assistant_tokens_mask=is_marked(text),
        add_generation_prompt=add_generation_prompt,
        **variables,
    )
    return rendered[0], list(spans[0]) if spans else []


def is_marked(text: str) -> bool:
    """Whether a template has generation marks."""
    return re.search(r"\{%-?\s*generation\s*-?%\}", text) is not None


def variants(family: str, own: Render | None) -> Iterator[Variables]:
    """Settings of a family's variables, the likeliest first; texts come from the tokenizer's own template if given."""
    for trim_user, trim_answer in ((False, False), (False, True), (True, True), (True, False)):
        trims: Variables = {"trim_user": trim_user, "trim_answer": trim_answer}
        match family:
            case "chatml":
                yield {**trims, "default_system_prompt": _found(own, r"<\|im_start\|>system\n(.*?)<\|im_end\|>\n")}
            case "qwen3":
                yield trims
            case "mistral":
                yield from ({**trims, **variables} for variables in _MISTRAL)
    match family:
        case "llama2":
            yield {}
        case "llama3":
            block = r"<\|start_header_id\|>system<\|end_header_id\|>\n\n(.*?)<\|eot_id\|>"
            yield {"preamble": _found(own, block)}
        case "gemma":
            yield {"system_turn": "refuse"}
            yield {"system_turn": "first"}
        case "sglang":
            yield {}


def fitting(families: Sequence[str], own: Render, tokens: Mapping[str, str]) -> tuple[str, Variables] | None:
    """The first family and variables that write every probe as `own` does; None when there is none."""
    wanted = [_or_refused(own, messages, prompt) for messages, prompt in _PROBES]
    for family in families:
        for variables in variants(family, own):
            text = template_text(family)

            def ours(
                messages: Messages, prompt: bool, text: str = text, variables: Mapping[str, Any] = variables
            ) -> str:
                return render(text, messages, prompt, **tokens, **variables)[0]

            pairs = zip(_PROBES, wanted, strict=True)
            if all(_or_refused(ours, messages, prompt) == expected for (messages, prompt), expected in pairs):
                return family, variables
    return None


def first_difference(ours: Render, own: Render) -> tuple[str, str, str] | None:
    """The first sample conversation that two templates write differently; None when there is none.

    Returns:
        What the sample shows, and both texts from the first difference; "a refusal" for a template that refuses.
    """
    for name, messages, prompt in _SAMPLES:
        here, there = (_or_refused(do_render, messages, prompt) for do_render in (ours, own))
        if here == there:
            continue
        if here is None or there is None:
            shown = ["a refusal" if text is None else _excerpt(text, 0) for text in (here, there)]
            return name, shown[0], shown[1]
        pairs = zip(here, there, strict=False)
        where = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(here), len(there)))
        return name, _excerpt(here, where), _excerpt(there, where)
    return None


def _excerpt(text: str, start: int) -> str:
    start = max(0, start - _EXCERPT // 4)
    return text[start : start + _EXCERPT] + ("..." if len(text) > start + _EXCERPT else "")


def families_by_vocabulary(vocabulary: Mapping[str, int]) -> list[str]:
    """Families whose special tokens a tokenizer has, the likeliest first."""
    if "<|start_header_id|>" in vocabulary:
        return ["llama3"]
    if "<start_of_turn>" in vocabulary:
        return ["gemma"]
    if "<|im_start|>" in vocabulary:
        return ["qwen3", "chatml"] if "<think>" in vocabulary else ["chatml", "qwen3"]
    return ["mistral"] if "[INST]" in vocabulary else []


def by_likelihood(vocabulary: Mapping[str, int]) -> list[str]:
    """All families, those whose special tokens are in the vocabulary first."""
    return list(dict.fromkeys(itertools.chain(families_by_vocabulary(vocabulary), FAMILIES)))


def _found(own: Render | None, pattern: str) -> str:
    """What the tokenizer's own template writes before a conversation without a system message."""
    text = _or_refused(own, [_USER], False) if own else None
    found = re.search(pattern, text, re.DOTALL) if text else None
    return found.group(1) if found else ""


def _or_refused(do_render: Render, messages: Messages, prompt: bool) -> str | None:
    try:
        return do_render(messages, prompt)
    except TemplateError:
        return None
