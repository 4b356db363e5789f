"""Rotary embeddings in a configuration: the keys of transformers 4 and those of transformers 5.

Transformers 5 writes one table, `rope_parameters`. Transformers 4, and the programs that are built on it, read
`rope_theta`, `rope_scaling` and a few more keys at the top level, and take 10000 for a base that they do not find. So
every configuration that HetSpec writes has both. This module knows configurations as plain data and no model class.
"""

from __future__ import annotations

from typing import Any

_TABLE = "rope_parameters"
_FULL, _SLIDING = "full_attention", "sliding_attention"
_OWN_KEY = ("rope_theta", "partial_rotary_factor")
"""Entries of the table that transformers 4 has at the top level and not in `rope_scaling`."""
_OLDER = ("rope_theta", "rope_scaling", "rope_local_base_freq")


def with_older_keys(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the keys of transformers 4 beside `rope_parameters`; unchanged without that table."""
    tables = _tables(config)
    if tables is None:
        return config
    full, sliding = tables
    scaling = {key: value for key, value in full.items() if key not in _OWN_KEY}
    found: dict[str, Any] = {key: full[key] for key in _OWN_KEY if key in full}
    found["rope_scaling"] = scaling if scaling.get("rope_type", "default") != "default" else None
    if sliding is not None and "rope_theta" in sliding:
        found["rope_local_base_freq"] = sliding["rope_theta"]
    return config | found


def without_older_keys(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration for transformers 5: where it has `rope_parameters`, that table alone counts."""
    if _tables(config) is None:
        return config
    return {key: value for key, value in config.items() if key not in _OLDER}


def contradiction(config: dict[str, Any]) -> str:
    """How `rope_theta` contradicts `rope_parameters`; empty when it does not."""
    tables, older = _tables(config), config.get("rope_theta")
    if tables is None or older is None or "rope_theta" not in tables[0] or tables[0]["rope_theta"] == older:
        return ""
    return f"{tables[0]['rope_theta']}: by rope_parameters; rope_theta says {older}, and readers of that key differ"


def _tables(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
    """The table of layers that look at everything, and that of sliding windows where a family has two."""
    table = config.get(_TABLE)
    if not isinstance(table, dict) or not table:
        return None
    full, sliding = table.get(_FULL), table.get(_SLIDING)
    if isinstance(full, dict):
        return full, sliding if isinstance(sliding, dict) else None
    return table, None
