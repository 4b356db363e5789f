"""Spec of serving by SGLang: where it is, how it is started, and what its offline engine measures.

Keys among its settings are taken out before a spec is written (`sealed`) and put back
by the process that needs them (`opened`); in between they travel as environment variables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pydantic import Field, model_validator

from hetspec_core.errors import SpecError
from hetspec_core.spec.decode import Spec

HIDDEN = "***"
"""What a sealed spec has in place of a key."""

_VARIABLES = "HETSPEC_SGLANG_"
_SECRET_NAME = re.compile(r"(^|[-_])(key|token|password|secret)$", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"(hf_|sk-|gh[pousr]_|xox[abp]-)[A-Za-z0-9_-]{16,}")


class SGLangSpec(Spec):
    """SGLang: a running server (`url`), or one that is started with `flags`."""

    url: str = Field(default="", description="URL of a running server, http://HOST:PORT; empty = start one.")
    plain_url: str = Field(
        default="", description="Server of the same base without speculation, to compare with; for `url` alone."
    )
    python: str = Field(
        default="", description="Interpreter that has SGLang; HETSPEC_SGLANG_PYTHON, or this one, when empty."
    )
    python_path: str = Field(default="", description="PYTHONPATH of SGLang alone, for an unpacked bundle.")
    environment: dict[str, str] = Field(default_factory=dict, description="Variables of SGLang alone.")
    flags: tuple[str, ...] = Field(
        default=(), description="Further words of SGLang's command line, passed on unchanged."
    )
    host: str = Field(default="127.0.0.1", description="Address that a started server listens on.")
    port: int = Field(default=0, ge=0, lt=65536, description="Port of a started server; 0 = a free one.")
    start_timeout_s: float = Field(default=900.0, gt=0, description="Seconds until a started server must be ready.")
    request_timeout_s: float = Field(
        default=300.0, gt=0, description="Seconds that a request may take; of a stream, seconds without a message."
    )
    restarts: int = Field(default=1, ge=0, description="How often a server is started again after a crash.")
    trees: bool = Field(
        default=True, description="Let the plugin send draft trees to a chat (costs time while it shows them)."
    )
    keep_servers: int = Field(
        default=1, gt=0, description="Servers that stay up while a chat changes draft or tree; they share the GPU."
    )
    engine: bool = Field(default=False, description="Measure SGLang's offline engine instead of a server.")
    batch_sizes: tuple[int, ...] = Field(
        default=(1,), min_length=1, description="Batch sizes to measure, one after another."
    )
    tp_size: int = Field(default=1, gt=0, description="GPUs that share each layer.")
    cuda_graph: bool = Field(default=True, description="Decode by captured CUDA graphs.")
    radix_cache: bool = Field(default=True, description="Let prompts share the cache of their common beginning.")
    deterministic: bool = Field(default=False, description="SGLang's deterministic inference.")

    def flag(self, *names: str) -> str | None:
        """Value of one of SGLang's flags as the user gave it, in either form; the last one counts, None = not given.

        Args:
            names: of the flag, all of them: `--tp-size`, `--tp`.
        """
        found = None
        for number, word in enumerate(self.flags):
            name, sign, value = word.partition("=")
            if name in names and sign:
                found = value
            elif word in names and number + 1 < len(self.flags):
                found = self.flags[number + 1]
        return found

    def number(self, *names: str) -> int | None:
        """`flag` of a whole number; None also for what is none, which SGLang itself refuses by name."""
        found = self.flag(*names) or ""
        return int(found) if found.isdecimal() else None

    def sealed(self) -> tuple[SGLangSpec, dict[str, str]]:
        """This spec with `***` in place of every key, and the keys by the environment variable that hands each over.

        A key is the value of a flag or variable whose name ends in key, token, password or secret, and any value that
        looks like a token of a known service. `--api-key` is handed over as HETSPEC_SGLANG_API_KEY.
        """
        found: dict[str, str] = {}

        def hide(variable: str, value: str) -> str:
            if value != HIDDEN:
                found[variable] = value
            return HIDDEN

        return self._with_keys(hide), found

    def opened(self, variables: Mapping[str, str]) -> SGLangSpec:
        """The inverse of `sealed`; keys that still stand in the spec stay.

        Raises:
            SpecError: a key is not among the variables.
        """
        lacking: list[str] = []

        def reveal(variable: str, value: str) -> str:
            if value == HIDDEN and not variables.get(variable):
                lacking.append(variable)
            return variables.get(variable, value) if value == HIDDEN else value

        spec = self._with_keys(reveal)
        if lacking:
            raise SpecError(
                "the server is started with a key, and keys are not kept with a run",
                hint=f"put the key into {' and '.join(lacking)}, and run the command again",
            )
        return spec

    def _with_keys(self, change: Callable[[str, str], str]) -> SGLangSpec:
        """A copy in which every key is what `change` makes of its variable and value."""
        flags: list[str] = []
        for word in self.flags:
            name, sign, value = word.partition("=")
            before = self.flags[len(flags) - 1] if flags else ""
            if word.startswith("--"):
                flags.append(f"{name}={change(_variable(name), value)}" if sign and _is_key(name, value) else word)
            elif before.startswith("--") and "=" not in before and _is_key(before, word):
                flags.append(change(_variable(before), word))
            else:
                flags.append(word)
        environment = {
            name: change(f"{_VARIABLES}VARIABLE_{name}", value) if _is_key(name, value) else value
            for name, value in self.environment.items()
        }
        return self.model_copy(update={"flags": tuple(flags), "environment": environment})

    @property
    def num_gpus(self) -> int:
        """GPUs that a server started with this spreads over: tensor, pipeline and data parallel sizes multiplied."""
        tensor = self.number("--tp-size", "--tp", "--tensor-parallel-size") or self.tp_size
        pipeline = self.number("--pp-size", "--pipeline-parallel-size") or 1
        data = self.number("--dp-size", "--dp", "--data-parallel-size") or 1
        return tensor * pipeline * (1 if "--enable-dp-attention" in self.flags else data)

    @model_validator(mode="after")
    def _check(self) -> SGLangSpec:
        for name, url in (("url", self.url), ("plain_url", self.plain_url)):
            if url and not url.startswith(("http://", "https://")):
                raise ValueError(f"{name} is {url!r}; it needs http://HOST:PORT")
            if "@" in url.partition("://")[2].partition("/")[0]:
                raise ValueError(f"{name} holds a user name or key; put a key into HETSPEC_SGLANG_API_KEY instead")
            if "?" in url or "#" in url:
                raise ValueError(f"{name} has a query; give http://HOST:PORT, and a key in HETSPEC_SGLANG_API_KEY")
        if self.plain_url and not self.url:
            raise ValueError("plain_url goes with url; without one both servers are started")
        if self.engine and self.url:
            raise ValueError("engine and url exclude each other: the engine is started in a process of its own")
        if any(size < 1 for size in self.batch_sizes):
            raise ValueError(f"batch_sizes is {self.batch_sizes}; sizes are 1 or more")
        port = self.flag("--port")
        if port is not None and not (port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError(f"--port among flags is {port!r}; it needs a number from 1 to 65535")
        return self


def _is_key(name: str, value: str) -> bool:
    return value == HIDDEN or bool(value and (_SECRET_NAME.search(name) or _SECRET_VALUE.search(value)))


def _variable(flag: str) -> str:
    return _VARIABLES + flag.lstrip("-").upper().replace("-", "_")
