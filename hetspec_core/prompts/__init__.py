"""Prompt lists that ship with HetSpec: `prompts` to generate a dataset from, `heldout` to measure on.

They share no prompt. `prompts.jsonl` has rows {id, category, prompt}; `heldout.jsonl` has the MT-Bench form
{question_id, category, turns}. This module knows where they are, not how they are read.
"""

from __future__ import annotations

from pathlib import Path

from hetspec_core.errors import NotFoundError

PREFIX = "shipped:"
MT_BENCH_SYSTEM_PROMPT = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\nIf a question does not make "
    "any sense, or is not factually coherent, explain why instead of answering something not correct. If you don't "
    "know the answer to a question, please don't share false information."
)
"""The system message published with Llama 2 (arXiv 2307.09288), which SGLang's MT-Bench script has taken over."""

_FOLDER = Path(__file__).parent


def shipped_names() -> list[str]:
    """Names of the shipped lists."""
    return sorted(path.stem for path in _FOLDER.glob("*.jsonl"))


def shipped_path(name: str) -> Path:
    """The file of a shipped list; `shipped:` in front of the name is allowed.

    Raises:
        NotFoundError: there is no list of this name.
    """
    stem = name.removeprefix(PREFIX)
    path = _FOLDER / f"{stem}.jsonl"
    if stem not in shipped_names():
        raise NotFoundError(f"no shipped prompt list {stem!r}; there are: {', '.join(shipped_names())}")
    return path
