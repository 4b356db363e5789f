"""What every spec shares: frozen, strict, and described key by key."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from hetspec_core.documents import INT64

Scalar = bool | int | float | str


class Spec(BaseModel):
    """A frozen record that refuses unknown keys, and integers beyond 64 bits, which neither TOML nor the registry has.

    Field descriptions are the help of forms and of `presets show`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, strict=False, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check_integers(self) -> Spec:
        for name, value in self:
            if not _fits(value):
                raise ValueError(f"{name} has an integer beyond 64 bits")
        return self


def _fits(value: Any) -> bool:
    if isinstance(value, int):
        return -INT64 <= value < INT64
    if isinstance(value, tuple | list):
        return all(map(_fits, value))
    return all(map(_fits, value.values())) if isinstance(value, dict) else True
