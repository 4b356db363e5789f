"""Spec of serving by SGLang: where it is, how it is started, and what its offline engine measures.

It knows no process and no HTTP.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from hetspec_core.spec._base import Spec


class SGLangSpec(Spec):
    """SGLang: a running server (`url`), or one that is started with `flags`."""

    url: str = Field(default="", description="Server to use, http://HOST:PORT; empty = start one.")
    plain_url: str = Field(
        default="", description="Server of the same base without speculation, to compare with; for `url` alone."
    )
    python: str = Field(
        default="", description="Interpreter that has SGLang; HETSPEC_SGLANG_PYTHON, or this one, when empty."
    )
    python_path: str = Field(default="", description="PYTHONPATH of SGLang alone, for an unpacked bundle.")
    environment: dict[str, str] = Field(default_factory=dict, description="Variables of SGLang alone.")
    flags: tuple[str, ...] = Field(default=(), description="Further words of SGLang's command line, as they are.")
    host: str = Field(default="127.0.0.1", description="Address that a started server listens on.")
    port: int = Field(default=0, ge=0, lt=65536, description="Its port; 0 = a free one.")
    start_timeout_s: float = Field(default=900.0, gt=0, description="Seconds until a started server must be ready.")
    request_timeout_s: float = Field(
        default=300.0, gt=0, description="Seconds that a request may take; of a stream, seconds without a message."
    )
    restarts: int = Field(default=1, ge=0, description="Times that a server is started again after a crash.")
    trees: bool = Field(default=True, description="Let the plugin tell draft trees to a chat (costs while one looks).")
    keep_servers: int = Field(
        default=1, gt=0, description="Servers that stay up while a chat changes draft or tree; they share the GPU."
    )
    engine: bool = Field(default=False, description="Measure SGLang's offline engine instead of a server.")
    batch_sizes: tuple[int, ...] = Field(default=(1,), min_length=1, description="Prompts at once, one after another.")
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
