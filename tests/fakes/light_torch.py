"""What `engine.context` asks of torch, without torch: for a worker whose stages calculate nothing.

The real library takes such a worker more than two seconds of processor time to import, for a few facts of the machine.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace


@dataclass(frozen=True)
class Device:
    type: str
    index: int | None = None

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"


def install() -> None:
    """Let `import torch` give a torch that sees no GPU; `torch.device`, the number types and the threads are there."""
    torch = ModuleType("torch")
    names = {name: f"torch.{name}" for name in ("float32", "bfloat16", "float16")}
    names |= {"device": Device, "__version__": "0"}
    names |= {"cuda": SimpleNamespace(is_available=lambda: False, device_count=lambda: 0)}
    names |= {"set_num_threads": lambda count: None, "get_num_threads": lambda: 1}
    torch.__dict__.update(names)
    sys.modules["torch"] = torch
