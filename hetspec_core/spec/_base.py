"""What every spec shares: frozen, strict, and described key by key."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Scalar = bool | int | float | str


class Spec(BaseModel):
    """A frozen record that refuses unknown keys. Field descriptions are the help of forms and of `presets show`."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, strict=False, allow_inf_nan=False)
