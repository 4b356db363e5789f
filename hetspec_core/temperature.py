"""The temperature below which sampling is greedy, for specs, chat settings and records alike.

Dividing logits by a smaller number overflows float32. SGLang has the same limit (`_SAMPLING_EPS`).
"""

from __future__ import annotations

LOWEST_TEMPERATURE = 1e-6
"""The smallest temperature that is sampled with. Anything below it, 0 included, takes the likeliest token."""


def is_greedy(temperature: float) -> bool:
    """Whether this temperature takes the likeliest token always."""
    return temperature < LOWEST_TEMPERATURE
