"""Experiment trackers (wandb, tensorboard, trackio, mlflow) through accelerate. None is installed by default."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetspec_core.documents import flatten
from hetspec_core.errors import NotFoundError
from hetspec_core.spec import RunSpec, Scalar

if TYPE_CHECKING:
    from accelerate import Accelerator


def check_trackers(names: Sequence[str]) -> None:
    """Find out before any work is done whether every tracker asked for is installed (packages are named as they are).

    Raises:
        NotFoundError: one is not.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise NotFoundError(
            f"training is to be reported to {', '.join(missing)}, which is not installed",
            hint=f"pip install {' '.join(missing)}, or leave training.report_to empty",
        )


def start_trackers(accelerator: Accelerator, spec: RunSpec, folder: Path) -> None:
    """Open the trackers that the accelerator was made with; a resumed run goes on under the same run id."""
    if not spec.training.report_to:
        return
    run_id = folder.name
    accelerator.init_trackers(
        spec.training.project,
        config=tracker_config(spec.model_dump(mode="json")),
        init_kwargs={
            "wandb": {"name": run_id, "id": run_id, "resume": "allow", "dir": str(folder)},
            "trackio": {"name": run_id, "resume": "allow"},
            "mlflow": {"run_name": run_id, "logging_dir": str(folder / "mlruns")},
        },
    )


def tracker_config(record: dict[str, Any]) -> dict[str, Scalar]:
    """A nested record as dotted keys and scalar values, which is all that every tracker takes."""
    values = flatten(record, keep_empty=False).items()
    return {key: value if isinstance(value, Scalar) else str(value) for key, value in values if value is not None}


def finish_trackers(accelerator: Accelerator) -> None:
    """Close the trackers of a training that ends with an error, and leave its process group as it is."""
    for tracker in accelerator.trackers:
        tracker.finish()
