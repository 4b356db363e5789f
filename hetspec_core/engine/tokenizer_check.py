"""Whether a tokenizer knows its own tokens: one that was converted wrongly still returns ids without an error."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_WORDS = re.findall(
    r"\w+",
    "the of and to in is was for on that with as it by at from his an were are which this be or has had first one "
    "their its new after but who not they have time system user what how when where people year world capital "
    "answer number ",
)
_SPACES = ("\u2581", "\u0120")  # how SentencePiece and byte-level BPE write the space before a word
_ENOUGH = 4  # known words; a vocabulary with fewer of them is not of English text


def first_fault(tokenizer: Any, markers: Iterable[str] = ()) -> str | None:
    """The first contradiction of a tokenizer to its own vocabulary, as a part of a sentence; None when there is none.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        markers: texts that must be one known token each, such as those of a chat template.
    """
    special = [token for token in (tokenizer.bos_token, tokenizer.eos_token) if token]
    for marker in dict.fromkeys((*markers, *special)):
        ids = _ids(tokenizer, marker)
        if len(ids) != 1:
            return f"it splits the marker {marker!r} into {len(ids)} tokens"
        if tokenizer.convert_ids_to_tokens(ids[0]) != marker:
            return f"it does not know the marker {marker!r}"
    return _fault_of_words(tokenizer)


def _fault_of_words(tokenizer: Any) -> str | None:
    vocabulary = tokenizer.get_vocab()
    # Where tokens have spaces, a word without one is the rest of a longer word, and may be split when it is alone.
    spaces = _SPACES if any(token.startswith(_SPACES) for token in vocabulary) else ("",)
    known = [word for word in _WORDS if any(space + word in vocabulary for space in spaces)]
    if len(known) < _ENOUGH:
        return None
    split = [word for word in known if min(len(_ids(tokenizer, word)), len(_ids(tokenizer, f" {word}"))) > 1]
    if len(split) > len(known) // 2:
        pieces = tokenizer.convert_ids_to_tokens(_ids(tokenizer, split[0]))
        return f"it splits {split[0]!r}, which its vocabulary has as one token, into {pieces}"
    text = " ".join(known)
    back = tokenizer.decode(_ids(tokenizer, text), clean_up_tokenization_spaces=False).strip()
    if back != text:
        return f"it encodes and decodes {text[:40]!r} as {back[:60]!r}"
    return None


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
