"""`spec.toml`: the frozen text of a run spec, written once and read by whoever opens the run folder.

Absent values are left out, since TOML has no null. It knows the text, not the folder it lies in.
"""

from __future__ import annotations

from hetspec_core.documents import DocumentError, parse_toml
from hetspec_core.errors import SpecError
from hetspec_core.spec.decode import decode
from hetspec_core.spec.run import SCHEMA_VERSION, RunSpec


def to_toml(spec: RunSpec) -> str:
    """The whole spec as TOML, defaults included, so that a later version's defaults cannot change an old run."""
    import tomli_w  # only those who submit a run write one

    return tomli_w.dumps(spec.model_dump(mode="json", exclude_none=True))


def from_toml(text: str, *, name: str = "spec.toml") -> RunSpec:
    """Read what `to_toml` wrote.

    Args:
        text: the TOML text.
        name: what to call it in errors, e.g. its path.

    Raises:
        SpecError: it is not TOML, was written by a newer version, or does not hold; every problem is listed.
    """
    try:
        data = parse_toml(text)
    except DocumentError as error:
        raise SpecError(f"{name} {error}", hint="the file is damaged; submit the run again") from None
    version = data.get("schema_version", SCHEMA_VERSION)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise SpecError(
            f"{name} has schema_version {version}; this version of HetSpec reads up to {SCHEMA_VERSION}",
            hint="update HetSpec, or submit the run again with this version",
        )
    spec, problems = decode(RunSpec, data)
    if spec is None:
        raise SpecError(
            f"{name} does not hold",
            problems=[str(problem) for problem in problems],
            hint="it was written by another version of HetSpec, or edited; submit the run again",
        )
    return spec
