"""A folder for PYTHONPATH in which `sglang` is the fake of `sglang_server.py`."""

from __future__ import annotations

import shutil
import venv
from pathlib import Path

from hetspec_core.sglang.versions import NEEDS
from hetspec_core.spec import SGLangSpec

SERVER = Path(__file__).with_name("sglang_server.py")
OFFLINE = Path(__file__).with_name("sglang_offline.py")
REPLAY = Path(__file__).with_name("sglang_replay.py")


_RUNS = {
    "plugins/__init__.py": "def load_plugins(): ...\n",
    "server_args.py": """\
import argparse


def prepare_server_args(argv):
    parser = argparse.ArgumentParser(prog="sglang serve")
    parser.add_argument("--model-path", "--model", required=True)
    for name in ("dtype", "log-level", "speculative-algorithm", "speculative-draft-model-path"):
        parser.add_argument(f"--{name}")
    for name in ("speculative-num-steps", "speculative-eagle-topk", "speculative-num-draft-tokens"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--cuda-graph-bs", type=int, nargs="+", dest="cuda_graph_bs_decode")
    parser.add_argument("--tp-size", "--tensor-parallel-size", type=int)
    return {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
""",
}
"""Files below `srt` that are run, not only looked at; names and forms of flags as in SGLang 0.5.17."""


def make_site(folder: Path, version: str = "0.5.17", *, without: tuple[str, ...] = (), server: Path = SERVER) -> Path:
    """Write it; returns the folder.

    Args:
        folder: where.
        version: what it says that it is.
        server: what runs as `sglang.launch_server`.
        without: names of functions and classes that its source shall lack; the rest is there with its parameters.
    """
    package = folder / "sglang"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"from sglang.offline import Engine\n__version__ = {version!r}\n")
    shutil.copy(server, package / "launch_server.py")
    shutil.copy(OFFLINE, package / "offline.py")
    for file, text in {**_source(without), **_RUNS}.items():
        path = package / "srt" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    about = folder / f"sglang-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sglang\nVersion: {version}\n")
    return folder


def bare_python(folder: Path) -> Path:
    """The interpreter of an environment of its own, in which nothing is installed: HetSpec neither."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    return folder / "bin" / "python"


def _source(without: tuple[str, ...]) -> dict[str, str]:
    """Files below `srt` in which everything that is looked for has the parameters that are wanted."""
    found: dict[str, str] = {}
    classes: dict[tuple[str, str], list[str]] = {}
    for part in NEEDS.values():
        for file, name, first, anywhere in part:
            owner, _, method = name.partition(".")
            if owner[0].islower():
                line = "" if name in without else f"def {name}({', '.join((*first, *anywhere))}): ...\n"
                found[file] = found.get(file, "") + line
                continue
            given = ", ".join(("self", *first, *anywhere))
            lines = classes.setdefault((file, owner), [f"class {owner}:\n    pass\n"])
            lines.append(f"    def {method or '__init__'}({given}): ...\n")
    for (file, owner), lines in classes.items():
        found[file] = found.get(file, "") + ("" if owner in without else "".join(lines))
    return found


def site_spec(folder: Path, mode: str = "well", **more: object) -> SGLangSpec:
    """Settings that start the fake."""
    environment = {"FAKE_SGLANG": mode, "FAKE_MARK": str(folder / "mark")}
    return SGLangSpec.model_validate(
        {"python_path": str(folder), "environment": environment, "start_timeout_s": 30.0, **more}
    )
