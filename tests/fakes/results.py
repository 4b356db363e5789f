"""Records of benches and tunings as they were recorded: by this version, and by older ones (those with a date)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hetspec_core.events import Journal, Result, RunEnded, RunStarted
from hetspec_core.service.workbench import Workbench
from tests.fakes.specs import small_spec

FOLDER = Path(__file__).parents[1] / "data" / "results"
BENCHES = tuple(sorted(path.stem for path in FOLDER.glob("bench-*.json")))
_FREE = ("histogram", "left_out", "categories", "best")  # their keys are data


def recorded(name: str) -> dict[str, Any]:
    """The data of a recorded result."""
    return json.loads((FOLDER / f"{name}.json").read_text())["data"]


def keys_of(data: Any, place: str = "") -> set[str]:
    """Paths of all keys of a record; items of a list share theirs, and keys that are data are left out."""
    if isinstance(data, list):
        return set().union(*(keys_of(item, f"{place}[]") for item in data))
    if not isinstance(data, dict):
        return set()
    free = place.rpartition(".")[2] in _FREE
    names = {name: f"{place}.{'*' if free else name}" for name in data}
    return set() if free and not data else set(names.values()).union(*(keys_of(data[n], p) for n, p in names.items()))


PLAIN = {"decode_tokens_per_s": 100.0}


def tree(shape: str, accept_length: float, propose_s: float, tokens_per_s: float) -> dict[str, Any]:
    return {
        "tree": shape,
        "accept_length": accept_length,
        "accept_length_interval": [accept_length - 0.1, accept_length + 0.1],
        "histogram": {"1": 10, "2": 30, "3": 10},
        "by_depth": [
            {"depth": 1, "offered": 50, "accepted": 40, "acceptance_rate": 0.8, "joint_rate": 0.8},
            {"depth": 2, "offered": 40, "accepted": 10, "acceptance_rate": 0.25, "joint_rate": 0.2},
        ],
        "decode_tokens_per_s": tokens_per_s,
        "speedup": tokens_per_s / 100,
        "lossless": {"identical": 7, "prompts": 8, "differences": []},
        "phases": {"propose_s": propose_s, "verify_s": 0.02, "commit_s": 0.001, "other_s": 0.002},
        "costs": {"prefill_s": 0.5, "propose_s": 50 * propose_s, "verify_s": 1.0, "commit_s": 0.05, "other_s": 0.1},
        "categories": {},
    }


def bench_run(
    workbench: Workbench, name: str, parameters: int, *trees: dict[str, Any], plain: Any = PLAIN, **about: Any
) -> str:
    """A bench that has succeeded with this result."""
    made = workbench.submit(small_spec(name, "bench"))
    setup = {"base": "tiny", "dtype": "float32", "batch_size": 1, "sampling": {"temperature": 0.0}}
    setup |= {"draft_parameters": 2 * parameters, "draft_active_parameters": parameters, **about}
    result = {"setup": setup, "plain": plain, "trees": list(trees)}
    with Journal(made.paths.events, "worker-0") as journal:
        journal.write(RunStarted(stage="bench", pid=1, host="h"))
        journal.write(Result(kind="bench", data=result))
        journal.write(RunEnded(attempt=1, state="succeeded"))
    return made.run_id
