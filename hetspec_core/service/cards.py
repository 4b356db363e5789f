"""The card of a draft or a dataset on the hub, as Markdown: what it is, what was measured, and how to use it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetspec_core.documents import MIB, DocumentError, read_json
from hetspec_core.errors import DataError, HetSpecError, NotFoundError
from hetspec_core.service.export import markdown_text
from hetspec_core.service.library import Library
from hetspec_core.service.results import ResultRow, rows_of
from hetspec_core.spec import AlgorithmSpec

if TYPE_CHECKING:
    from hetspec_core.service.workbench import Workbench
    from hetspec_core.spec import BaseSpec, RunSpec

_LONGEST_BYTES = 512 * MIB  # the manifest of a dataset has a line for each shard
_LICENCES = {
    "apache-2.0": "apache-2.0",
    "mit": "mit",
    "gemma terms": "gemma",
    "llama 2 community": "llama2",
    "llama 3.1 community": "llama3.1",
    "llama 3.2 community": "llama3.2",
}
"""Beginning of a licence's name -> what the hub calls it."""


@dataclass(frozen=True)
class Origins:
    """Where a draft or a dataset comes from.

    Attributes:
        folder: its files.
        settings: the `hetspec` block of a draft's configuration, or the manifest of a dataset.
        spec: of the run that made it; None when the run is not here.
        trained: result of the training, or of the dataset's run.
        measured: benches of the draft, newest first.
    """

    folder: Path
    settings: dict[str, Any]
    spec: RunSpec | None = None
    trained: dict[str, Any] = field(default_factory=dict)
    measured: tuple[ResultRow, ...] = ()


def draft_origins(workbench: Workbench, folder: Path) -> Origins:
    """The origins of a draft directory: its run, and every bench that measured it.

    Raises:
        NotFoundError: it has no config.json.
    """
    settings = _table(_json(folder / "config.json").get("hetspec"))
    run_id = _run_of(workbench, folder) or str(settings.get("run_id") or "")
    spec, results = _run(workbench, run_id)
    library, rows = Library(workbench), []
    for bench in workbench.runs(stage="bench", state="succeeded"):
        try:
            measured = library.spec(bench.run_id).draft
        except HetSpecError:  # of another version
            continue
        checkpoint = measured.checkpoint if measured is not None else None
        if checkpoint and (checkpoint == run_id or Path(checkpoint).absolute() == folder.absolute()):
            rows += rows_of(workbench, bench.run_id, bench.name)
    return Origins(folder, settings, spec, results.get("train", {}), tuple(rows))


def dataset_origins(workbench: Workbench, folder: Path) -> Origins:
    """The origins of a dataset directory.

    Raises:
        NotFoundError: it has no manifest.
    """
    manifest = _json(folder / "manifest.json")
    spec, results = _run(workbench, _run_of(workbench, folder) or "")
    return Origins(folder, manifest, spec, results.get("dataset", {}))


def draft_card(origins: Origins, repository: str, base: BaseSpec | None = None) -> str:
    """Markdown with a header that the hub reads."""
    settings, spec = origins.settings, origins.spec
    base = base or (spec.base if spec else None)
    algorithm = str(_table(settings.get("algorithm")).get("name", AlgorithmSpec().name))
    recipe = str(settings.get("recipe") or (spec.recipe if spec else ""))
    facts = {
        "base": _base_line(base, str(settings.get("base") or "")),
        "weights of the base": settings.get("base_fingerprint"),
        "algorithm": algorithm,
        "recipe": recipe,
        "backbone": settings.get("backbone"),
        "captured layers": ", ".join(map(str, settings.get("captured_layers") or ())) or "final",
        "parameters": _count(origins.trained.get("draft_parameters")),
        "active parameters": _count(origins.trained.get("draft_active_parameters")),
        "supervised tokens": _count(settings.get("supervised_tokens") or origins.trained.get("supervised_tokens")),
        "step": _count(settings.get("step")),
        "dataset": spec.dataset.source if spec else None,
        "tokenizer hash": settings.get("tokenizer_hash"),
        "template hash": settings.get("template_hash"),
    }
    name = repository.rpartition("/")[2]
    preset = base.name if base else "BASE_PRESET"
    use = (
        f"hf download {repository} --local-dir {name}\n"
        f"hetspec-core draft doctor {name} --base {preset}\n"
        f"hetspec-core bench {recipe or 'RECIPE'} --draft {name}\n"
        f'hetspec-core generate {recipe or "RECIPE"} "Hello" --draft {name}'
    )
    return "".join(
        [
            _header(base, ["speculative-decoding", "hetspec", algorithm], "hetspec"),
            f"# {name}\n\nA draft model for speculative decoding with {facts['base']}. It proposes tokens that the "
            "base verifies, so it changes the speed and not the text; it is of no use by itself.\n\n",
            markdown_text(("", "value"), [(key, str(value)) for key, value in facts.items() if value], right_from=2),
            _measured(origins.measured),
            _licence(base),
            f"\n## Use\n\n```sh\n{use}\n```\n",
        ]
    )


def dataset_card(origins: Origins, repository: str) -> str:
    """Markdown with a header that the hub reads."""
    manifest, spec = origins.settings, origins.spec
    identity, about, counts = (_table(manifest.get(key)) for key in ("identity", "about", "counts"))
    base = spec.base if spec else None
    name = repository.rpartition("/")[2]
    facts = {
        "base": _base_line(base, str(_table(about.get("base")).get("name") or "")),
        "weights of the base": identity.get("base_fingerprint"),
        "source": about.get("source"),
        "samples": _count(counts.get("samples")),
        "tokens": _count(counts.get("tokens")),
        "supervised tokens": _count(counts.get("supervised_tokens")),
        "layers beside the final state": ", ".join(map(str, identity.get("layers") or ())) or "none",
        "type": identity.get("dtype"),
        "template hash": identity.get("template_hash"),
    }
    use = (
        f"hf download {repository} --repo-type dataset --local-dir {name}\n"
        f"hetspec-core dataset verify {name}\n"
        f"hetspec-core train {(spec.recipe if spec else '') or 'RECIPE'} --dataset {name}"
    )
    return "".join(
        [
            _header(base, ["speculative-decoding", "hetspec", "hidden-states"], None),
            f"# {name}\n\nHidden states of {facts['base']} over conversations, for training draft models with HetSpec. "
            "The conversations come from the source below, under its own licence.\n\n",
            markdown_text(("", "value"), [(key, str(value)) for key, value in facts.items() if value], right_from=2),
            _licence(base),
            f"\n## Use\n\n```sh\n{use}\n```\n",
        ]
    )


def _header(base: BaseSpec | None, tags: list[str], program: str | None) -> str:
    named = base.license if base else ""
    known = next((hub for begin, hub in _LICENCES.items() if named.lower().startswith(begin)), None)
    lines = [f"license: {known or 'other'}"]
    if named and known is None:
        lines.append(f"license_name: {json.dumps(named)}")
    if base is not None and base.source.kind != "path" and base.source.repo_id:
        lines.append(f"base_model: {json.dumps(base.source.repo_id)}")
    lines += [f"library_name: {program}"] if program else []
    lines += ["tags:", *(f"- {json.dumps(tag)}" for tag in tags)]
    return "---\n" + "\n".join(lines) + "\n---\n\n"


def _base_line(base: BaseSpec | None, recorded: str) -> str:
    if base is None:
        return recorded or "a base that is not recorded"
    return f"{base.name} ({base.source.repo_id}@{base.source.revision})" if base.source.kind == "hub" else base.name


def _licence(base: BaseSpec | None) -> str:
    if base is None or not base.license:
        return ""
    return f"\nThe base is under {base.license}; what is derived from it has to respect that licence.\n"


def _measured(rows: tuple[ResultRow, ...]) -> str:
    if not rows:
        return "\nNothing has been measured with it here yet.\n"
    head = ("tree", "type", "batch", "accept length", "tokens/s", "plain tokens/s", "speedup", "equal answers")
    cells = [
        (
            row.tree,
            row.dtype,
            str(row.batch_size),
            _figure(row.accept_length),
            _figure(row.tokens_per_s),
            _figure(row.plain_tokens_per_s),
            _figure(row.speedup),
            row.equal_answers,
        )
        for row in rows
    ]
    note = (
        "Accept length: committed tokens per verify step, the bonus token included. Speeds are of the machine named.\n"
    )
    devices = ", ".join(sorted({row.device for row in rows if row.device}))
    return f"\n## Measured\n\n{markdown_text(head, cells)}\n{note}" + (f"Machine: {devices}.\n" if devices else "")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _count(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value or not math.isfinite(value):
        return None
    return f"{int(value):,}"


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path, limit_bytes=_LONGEST_BYTES)
    except FileNotFoundError:
        raise NotFoundError(f"{path.parent} has no {path.name}", hint="name a run or its directory") from None
    except DocumentError as error:
        raise DataError(f"{path} {error}", hint="the file is damaged; make it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    return found if isinstance(found, dict) else {}


def _run_of(workbench: Workbench, folder: Path) -> str | None:
    runs = workbench.roots.runs.absolute()
    folder = folder.absolute()
    return folder.relative_to(runs).parts[0] if folder.is_relative_to(runs) else None


def _run(workbench: Workbench, run_id: str) -> tuple[RunSpec | None, dict[str, Any]]:
    if not run_id:
        return None, {}
    try:
        report = workbench.show(run_id)
    except NotFoundError:
        return None, {}
    return report.spec, report.results
