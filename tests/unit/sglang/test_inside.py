"""What runs inside SGLang is found by an interpreter that has nothing of HetSpec's dependencies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hetspec_core.sglang.launch import PLUGIN, link_inside

PROBE = """
import importlib.metadata, sys
import hetspec_core.documents, hetspec_core.sglang.offline_program, hetspec_core.sglang.plugin.publisher
import hetspec_core.sglang.versions
(entry,) = importlib.metadata.entry_points(group="sglang.srt.plugins")
print(entry.value)
print(sorted({name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names) - {"__main__"}))
"""


def test_the_folder_of_links_is_enough_without_any_installed_package(tmp_path: Path) -> None:
    folder = link_inside(tmp_path / "inside")
    command = [sys.executable, "-P", "-S", "-c", PROBE]  # -S: without the packages that are installed here
    done = subprocess.run(
        command, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [PLUGIN, "['hetspec_core']"]
