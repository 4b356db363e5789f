"""llama.cpp's algorithm for SentencePiece BPE, as plain as it can be written: the reference for built tokenizers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6
_WHOLE = (UNKNOWN, CONTROL, USER_DEFINED)


def reference_ids(keys: Mapping[str, Any], text: str) -> list[int]:
    """Token ids of a text whose markers are tokens; `keys` as `read_tokenizer_keys` gives them."""
    vocabulary = {token: number for number, token in enumerate(keys["tokens"])}
    whole = [token for token, kind in zip(keys["tokens"], keys["token_type"], strict=True) if kind in _WHOLE]
    pattern = "|".join(map(re.escape, sorted(whole, key=len, reverse=True)))
    found: list[int] = []
    for part in re.split(f"({pattern})", text) if whole else [text]:
        if part in whole:
            found.append(vocabulary[part])
        elif part:
            prefix = " " if keys.get("add_space_prefix", True) else ""
            found += _pieces((prefix + part).replace(" ", "\u2581"), vocabulary, keys["scores"])
    return found


def _pieces(text: str, vocabulary: Mapping[str, int], scores: Sequence[float]) -> list[int]:
    """Of all neighbours whose union is a token, the highest score is joined first, of equals the leftmost."""
    symbols = list(text)
    while True:
        unions = [
            (-scores[vocabulary[union]], place)
            for place, union in enumerate(map("".join, itertools.pairwise(symbols)))
            if union in vocabulary
        ]
        if not unions:
            break
        place = min(unions)[1]
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
    ids: list[int] = []
    for symbol in symbols:
        whole = vocabulary.get(symbol)
        ids += [whole] if whole is not None else [vocabulary[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return ids
