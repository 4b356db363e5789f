"""Which versions of SGLang are supported, said once; read inside SGLang's processes too."""

from __future__ import annotations

OLDEST = "0.5.11"
NEWEST = "0.5.23"
"""Over HTTP all versions from the oldest to the newest are taken."""

RANGE = f"{OLDEST} to {NEWEST}"

INSIDE = ("0.5.17",)
"""Versions in which model classes and the tree plugin were run. In others they are offered where the source fits."""

INSIDE_RANGE = ", ".join(INSIDE)


def numbers(version: str) -> tuple[int, int, int] | None:
    """0.5.17 or 0.5.17.post1 as numbers; None for what is no version."""
    found: list[int] = []
    for part in version.strip().removeprefix("v").split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            return None
        found.append(int(digits))
    return (found[0], found[1], found[2]) if len(found) == 3 else None


def is_supported(version: str) -> bool:
    """Whether a version is in the supported range."""
    seen, oldest, newest = numbers(version), numbers(OLDEST), numbers(NEWEST)
    return seen is not None and oldest is not None and newest is not None and oldest <= seen <= newest


def inside_is_known(version: str) -> bool:
    """Whether model classes and the tree plugin were run in this version."""
    return numbers(version) in {numbers(known) for known in INSIDE}
