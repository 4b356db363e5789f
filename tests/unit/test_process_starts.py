"""Every Python that HetSpec starts has `-P`: no module that lies in the present folder is imported in its place."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hetspec_core.events.chat import Failed, Open
from hetspec_core.process import python_command, python_environment

ROOT = Path(__file__).resolve().parents[2]
TREES = ("hetspec_core", "hetspec_tui", "benchmarks", "scripts")

STARTS = re.compile(
    r"subprocess\.(run|Popen|call|check_call|check_output|getoutput|getstatusoutput)"
    r"|os\.(system|popen|fork|forkpty|exec\w+|spawn\w+|posix_spawnp?)"
    r"|asyncio\.(create_subprocess_exec|create_subprocess_shell)"
    r"|pty\.spawn|\w*\.?subprocess_(exec|shell)|(multiprocessing|concurrent\.futures)\.\w+"
)
"""Everything in the standard library that starts a process, by the name under which it is called here."""

PYTHON = re.compile(r"sys\.executable|interpreter\(|\bpython\b|'python[\d.]*'")
"""An expression that names an interpreter."""

COMES_FROM_ELSEWHERE = {
    "hetspec_core/sglang/child.py:start": "plan_launch in launch and run_engine in offline",
    "hetspec_core/jobs/workers.py:start": "python_command in WorkerProcess.__init__",
    "hetspec_core/service/chat/worker_link.py:_start": "worker_command",
    "hetspec_tui/serve.py:_open_app_process": "the command that `serve` makes",
    "benchmarks/sglang/commands.py:_start": "COMMAND and python_command of the callers",
}
"""Starts whose command is made in another function; a list that begins with an interpreter is checked where it is."""

MAY_NAME_THE_INTERPRETER = {
    "hetspec_core/process.py:python_command",
    "hetspec_core/sglang/launch.py:interpreter",
    "hetspec_core/service/doctor.py:check_sglang",
    "hetspec_core/service/doctor.py:_check_python",
    "hetspec_core/service/doctor.py:_check_torch",
}
"""Where `sys.executable` is not the first word of a list."""


@dataclass(frozen=True)
class Found:
    place: str
    line: int
    node: ast.AST
    scope: ast.AST


def walk(node: ast.AST, scope: ast.AST, name: str) -> Iterator[tuple[ast.AST, ast.AST, str]]:
    for child in ast.iter_child_nodes(node):
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        found_scope, found_name = (child, child.name) if inside else (scope, name)
        yield child, scope, name
        yield from walk(child, found_scope, found_name)


def nodes() -> Iterator[Found]:
    for tree in TREES:
        for path in sorted((ROOT / tree).rglob("*.py")):
            module = ast.parse(path.read_text(encoding="utf-8"))
            for node, scope, name in walk(module, module, "<module>"):
                yield Found(f"{path.relative_to(ROOT)}:{name}", getattr(node, "lineno", 0), node, scope)


NODES = tuple(nodes())


def is_guarded(value: ast.expr) -> bool:
    """Whether a command is no Python, or a Python with -P (or -I, which says more)."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "python_command":
        return True
    if isinstance(value, ast.List | ast.Tuple) and value.elts:
        first = value.elts[0]
        if isinstance(first, ast.Starred):
            return ast.unparse(first.value) in ("CLI", "COMMAND", "command")
        if not PYTHON.search(ast.unparse(first)):
            return True
        return len(value.elts) > 1 and ast.unparse(value.elts[1]) in ("'-P'", "'-I'")
    return False


def test_every_list_that_begins_with_an_interpreter_goes_on_with_safe_path() -> None:
    wrong = [
        f"{found.place} line {found.line}: {ast.unparse(found.node)[:80]}"
        for found in NODES
        if isinstance(found.node, ast.List | ast.Tuple)
        and isinstance(found.node.ctx, ast.Load)
        and found.node.elts
        and PYTHON.search(ast.unparse(found.node.elts[0]))
        and not isinstance(found.node.elts[0], ast.List | ast.Tuple | ast.JoinedStr)
        and not is_guarded(found.node)
    ]
    assert not wrong


def test_every_start_of_a_process_has_a_command_that_is_known() -> None:
    seen, unknown = set(), []
    for found in NODES:
        if not isinstance(found.node, ast.Call):
            continue
        function, arguments = found.node.func, list(found.node.args)
        if ast.unparse(function) == "asyncio.to_thread":
            function, arguments = arguments[0], arguments[1:]
        if not STARTS.fullmatch(ast.unparse(function)):
            continue
        command = arguments[0] if arguments else None
        if isinstance(command, ast.Name):
            made = [
                value
                for node in ast.walk(found.scope)
                if isinstance(node, ast.Assign)
                for target, value in assigned(node)
                if target == command.id
            ]
            if made and all(map(is_guarded, made)):
                continue
        elif command is not None and is_guarded(command):
            continue
        seen.add(found.place)
        if found.place not in COMES_FROM_ELSEWHERE:
            unknown.append(f"{found.place} line {found.line}")
    assert not unknown, "start a Python by process.python_command, or say here where the command comes from"
    assert seen == set(COMES_FROM_ELSEWHERE)


def assigned(node: ast.Assign) -> Iterator[tuple[str, ast.expr]]:
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from zip(map(ast.unparse, target.elts), node.value.elts, strict=True)
        else:
            yield ast.unparse(target), node.value


def test_processes_are_started_under_the_names_that_are_looked_for_only() -> None:
    wrong = []
    for found in NODES:
        if isinstance(found.node, ast.ImportFrom) and found.node.module in ("subprocess", "multiprocessing", "pty"):
            wrong.append(found.place)
        if isinstance(found.node, ast.Import):
            wrong += [
                found.place
                for name in found.node.names
                if name.name.split(".")[0] in ("multiprocessing", "pexpect")
                or (name.name == "subprocess" and name.asname)
            ]
    assert not wrong


def test_the_interpreter_is_named_as_a_first_word_only() -> None:
    first = {
        id(node)
        for found in NODES
        if isinstance(found.node, ast.List | ast.Tuple) and found.node.elts
        for node in ast.walk(found.node.elts[0])
    }
    wrong = {
        found.place
        for found in NODES
        if isinstance(found.node, ast.Attribute)
        and ast.unparse(found.node) == "sys.executable"
        and id(found.node) not in first
    }
    assert wrong <= MAY_NAME_THE_INTERPRETER


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder holds modules with the names of others; each leaves a mark when it is imported."""
    folder = tmp_path / "trap"
    folder.mkdir()
    for name in ("torch", "json", "types", "queue", "random", "typing", "transformers", "textual", "numpy", "sglang"):
        text = f"import os\nos.close(os.open({str(tmp_path / f'imported-{name}')!r}, os.O_CREAT | os.O_WRONLY))\n"
        (folder / f"{name}.py").write_text(text)
    monkeypatch.chdir(folder)
    return folder


def imported(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.glob("imported-*"))


def test_a_python_that_is_started_imports_nothing_from_the_present_folder(
    trap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(ROOT), ""]))
    ask = "import json, queue, random, sys; print(json.dumps([sys.path[0], '' in sys.path]))"
    done = subprocess.run(python_command("-c", ask), env=python_environment(), capture_output=True, check=True)
    assert json.loads(done.stdout) == [str(ROOT), False]
    assert imported(trap) == []


@pytest.mark.parametrize(
    "words",
    [("draft", "inspect", "downloaded"), ("dataset", "inspect", "downloaded")],
    ids=" ".join,
)
def test_a_command_that_asks_the_engine_imports_nothing_from_the_present_folder(
    trap: Path, home: Path, words: tuple[str, ...]
) -> None:
    (trap / "downloaded").mkdir()
    for name in ("config.json", "model.safetensors", "manifest.json"):  # enough for the engine to be asked
        (trap / "downloaded" / name).write_text("{}")
    program = Path(sys.executable).with_name("hetspec-core")
    done = subprocess.run(
        [program, *words],
        env=python_environment({"HETSPEC_HOME": str(home)}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert imported(trap) == []


@pytest.mark.slow
def test_the_doctor_and_the_chat_import_nothing_from_the_present_folder(trap: Path, home: Path) -> None:
    from hetspec_core.service.chat.worker_link import WorkerLink, worker_command
    from hetspec_core.service.doctor import _check_torch, check_sglang

    unknown = Open(protocol=0, base={})

    assert _check_torch(has_gpu=False).facts.get("version")
    check_sglang(has_gpu=False)
    link = WorkerLink(worker_command(), home / "chat.log")
    link.start()
    try:
        link.send(unknown)
        assert any(isinstance(event, Failed) for event in link.wait(60))
    finally:
        link.close()
    assert imported(trap) == []
