"""Rules of the source that no linter checks."""

from __future__ import annotations

import ast
from collections import Counter

from tests.conftest import REPOSITORY

_FILES = sorted(file for package in ("hetspec_core", "hetspec_tui") for file in (REPOSITORY / package).rglob("*.py"))


def _patterns(case: ast.match_case) -> list[str]:
    pattern = case.pattern
    return [ast.dump(each) for each in (pattern.patterns if isinstance(pattern, ast.MatchOr) else [pattern])]


def test_no_case_repeats_one_above_it() -> None:
    repeated = []
    for file in _FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Match):
                seen = Counter(pattern for case in node.cases if case.guard is None for pattern in _patterns(case))
                repeated += [f"{file.name}:{node.lineno}: {pattern}" for pattern, times in seen.items() if times > 1]
    assert not repeated


def test_unit_tests_lie_in_folders_named_after_packages() -> None:
    units = REPOSITORY / "tests" / "unit"
    folders = {file.parent.relative_to(units) for file in units.rglob("test_*.py")}
    assert len(folders) > 5
    assert [str(each) for each in sorted(folders) if not (REPOSITORY / "hetspec_core" / each).is_dir()] == []


def test_no_test_module_imports_another() -> None:
    imports = []
    for file in sorted((REPOSITORY / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").rpartition(".")[2].startswith("test_"):
                imports.append(f"{file.name}:{node.lineno}: {node.module}")
    assert imports == []
