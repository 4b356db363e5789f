"""The desk starts in a blink: what the two commands import before they answer."""

from __future__ import annotations

import subprocess
import sys

import pytest

ENGINE_LIBRARIES = {
    "torch",
    "transformers",
    "numpy",
    "datasets",
    "accelerate",
    "safetensors",
    "gguf",
    "pyarrow",
    "pandas",
}

# Runs a program to its end inside an interpreter that then tells which modules it has loaded.
PROBE = """
import contextlib, io, sys
sys.argv = {argv!r}
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as written:
    {statement}
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
sys.stderr.write(written.getvalue())
"""


def loaded(statement: str, *arguments: str) -> tuple[set[str], str]:
    """Top-level modules in `sys.modules` after `statement`, and what it printed."""
    probe = PROBE.format(statement=statement, argv=["program", *arguments])
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split()), done.stderr


def test_core_help_answers_without_the_engine_and_without_pydantic() -> None:
    modules, printed = loaded("from hetspec_core.cli.main import main; main()", "--help")
    assert "Usage" in printed
    assert sorted(modules & (ENGINE_LIBRARIES | {"pydantic", "sqlite_utils", "textual"})) == []


def test_a_supervisor_starts_without_the_engine_and_without_pydantic() -> None:
    modules, _ = loaded("import hetspec_core.jobs.supervisor")
    assert sorted(modules & (ENGINE_LIBRARIES | {"pydantic", "pydantic_core", "psutil", "sqlite_utils"})) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["runs", "--help"],
        ["train", "--help"],
        ["presets", "list"],
        ["plan", "quick-demo"],
        ["doctor", "--json"],
    ],
)
def test_core_commands_of_the_desk_run_without_the_engine(arguments: list[str]) -> None:
    modules, printed = loaded("from hetspec_core.cli.main import main; main()", *arguments)
    assert printed.strip()
    assert sorted(modules & (ENGINE_LIBRARIES | {"textual"})) == []


def test_dashboard_loads_without_the_engine_and_without_pydantic() -> None:
    modules, _ = loaded("import hetspec_tui.app")
    assert "textual" in modules
    assert sorted(modules & (ENGINE_LIBRARIES | {"pydantic", "sqlite_utils"})) == []


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_dashboard_command_answers_without_the_engine(arguments: list[str]) -> None:
    modules, printed = loaded("from hetspec_tui.app import main; main()", *arguments)
    assert printed.strip()
    assert sorted(modules & ENGINE_LIBRARIES) == []


def test_the_specs_load_without_the_engine() -> None:
    modules, _ = loaded("import hetspec_core.spec, hetspec_core.events")
    assert "pydantic" in modules
    assert sorted(modules & ENGINE_LIBRARIES) == []


def test_a_worker_loads_torch_alone_before_its_stage() -> None:
    light = "from tests.fakes import light_torch; light_torch.install()"
    modules, _ = loaded(f"{light}; import hetspec_core.engine.worker, hetspec_core.engine.context")
    assert sorted(modules & ENGINE_LIBRARIES) == ["torch"]


def test_the_probe_sees_what_a_statement_imports() -> None:
    assert "colorsys" not in loaded("pass")[0]
    assert "colorsys" in loaded("__import__('colorsys')")[0]
