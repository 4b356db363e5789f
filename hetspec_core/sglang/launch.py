"""The command line and the environment of SGLang's processes, and how HetSpec's parts get into them.

These parts are the external model package and the plugin. SGLang's interpreter finds them in a folder on its
PYTHONPATH, which holds a link to this package and an entry point, and nothing else of HetSpec's environment.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hetspec_core
from hetspec_core.errors import ModelError, ResourceError
from hetspec_core.files import write_atomic
from hetspec_core.sglang import versions
from hetspec_core.sglang.export import ServedDraft
from hetspec_core.sglang.plugin import NATIVE_ENVIRONMENT, TREES_VARIABLE
from hetspec_core.spec import ResourcesSpec, SGLangSpec, TreeSpec

MODEL_PACKAGE = "hetspec_core.sglang.models"
PLUGIN = "hetspec_core.sglang.plugin.hooks:register"

SERVER_MODULE = "sglang.launch_server"
WORDS_VARIABLE = "HETSPEC_SGLANG_WORDS"
"""Environment variable of a server with keys: the words of its command line that hold them, by index."""

_START_WITH_KEYS = f"""\
import json, os, runpy, sys
for place, word in json.loads(os.environ.pop("{WORDS_VARIABLE}")).items():
    sys.argv[1 + int(place)] = word
runpy.run_module("{SERVER_MODULE}", run_name="__main__", alter_sys=True)
"""
# Every user of the machine can read a command line; only its own user can read an environment.

_ASK_S = 120.0
_ALIASES = {"--tp-size": ("--tp", "--tensor-parallel-size"), "--model-path": ("--model",)}


@dataclass(frozen=True)
class Launch:
    """How a server is started.

    Attributes:
        command: its command line, without keys.
        environment: variables in addition to this process's own.
        url: its address.
        host, port: the same in parts.
        expects: class that must serve the draft; empty without one.
        api_key: key that requests must carry; empty when it needs none.
    """

    command: list[str]
    environment: dict[str, str]
    url: str
    host: str
    port: int
    expects: str = ""
    api_key: str = ""

    @property
    def shown(self) -> str:
        """The command line for a shell, without keys."""
        return shlex.join(self.public_command)

    @property
    def public_command(self) -> list[str]:
        """The words of the command line for records and logs, without keys."""
        if _START_WITH_KEYS not in self.command:
            return self.command
        place = self.command.index(_START_WITH_KEYS)
        return [*self.command[: place - 1], "-m", SERVER_MODULE, *self.command[place + 1 :]]


def interpreter(spec: SGLangSpec) -> str:
    """The Python that has SGLang: the spec's, the environment's, or this one."""
    named = spec.python or os.environ.get(versions.PYTHON_VARIABLE, "")
    return str(Path(named).expanduser()) if named else sys.executable


def environment(spec: SGLangSpec, inside: Path | None = None) -> dict[str, str]:
    """Variables of SGLang's process. PYTHONPATH is SGLang's own followed by the folder of links, not this process's.

    PYTHONSAFEPATH is `-P` for the Pythons that SGLang itself starts.
    """
    places = [spec.python_path, str(inside) if inside is not None else ""]
    own = {"PYTHONPATH": os.pathsep.join(place for place in places if place), "PYTHONSAFEPATH": "1"}
    return {**own, **spec.environment}


def installed(spec: SGLangSpec) -> versions.Installed:
    """The SGLang that the interpreter of the spec has.

    Raises:
        ResourceError: it has none, or one whose version is not supported.
    """
    command = [interpreter(spec), "-P", "-c", versions.question()]
    where = spec.python_path or command[0]
    hint = (
        f"pip install '{versions.REQUIREMENT}' in an environment of its own, "
        "and name its interpreter: --set sglang.python=PATH; or attach to a running server with --url"
    )
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=_ASK_S,
            env={**os.environ, **environment(spec)},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ResourceError(f"{command[0]} cannot be run to look for SGLang: {error}", hint=hint) from error
    try:
        found = versions.read_answer(done.stdout)
    except (ValueError, KeyError):
        if versions.is_too_old(done.stderr):
            raise ResourceError(f"{command[0]} is older than Python 3.11", hint=versions.NEWER_PYTHON) from None
        said = [line for line in done.stderr.splitlines() if line.strip()]
        if said and not said[-1].startswith("importlib.metadata.PackageNotFoundError"):
            raise ResourceError(
                f"{command[0]} failed to report its SGLang: {said[-1].strip()[:300]}", hint=hint
            ) from None
        raise ResourceError(f"SGLang is not installed in {where}", hint=hint) from None
    if not versions.is_supported(found.version):
        raise ResourceError(
            f"SGLang {found.version} in {where} is not supported; supported are {versions.RANGE}",
            hint=hint,
        )
    return found


def plan_launch(
    spec: SGLangSpec,
    *,
    base: Path,
    served: ServedDraft | None,
    tree: TreeSpec,
    resources: ResourcesSpec,
    port: int,
    inside: Path | None = None,
    trees_socket: str = "",
) -> Launch:
    """The command line of a server.

    Args:
        spec: how to start it; keys that were removed from it are read from the environment.
        base: directory of the base.
        served: the draft, or None for plain decoding.
        tree: shape of the draft tree.
        resources: number type.
        port: where it listens.
        inside: folder of links, see `link_inside`.
        trees_socket: path of the socket on which the plugin sends trees; empty = no trees.
    """
    spec = spec.opened(os.environ)
    host = spec.flag("--host") or spec.host
    port = spec.number("--port") or port
    about: dict[str, Any] = {"base": base, "served": served, "tree": tree, "resources": resources}
    secret = server_words(spec, **about, address=(host, port))
    words = server_words(spec.sealed()[0], **about, address=(host, port))
    hidden = {place: word for place, (word, shown) in enumerate(zip(secret, words, strict=True)) if word != shown}
    variables = inside_variables(spec, inside, served, resources)
    if hidden:
        variables[WORDS_VARIABLE] = json.dumps(hidden)
    if trees_socket:
        variables[TREES_VARIABLE] = trees_socket
    reached = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    shown = f"[{reached}]" if ":" in reached else reached
    return Launch(
        command=[interpreter(spec), "-P", *(["-c", _START_WITH_KEYS] if hidden else ["-m", SERVER_MODULE]), *words],
        environment=variables,
        url=f"http://{shown}:{port}",
        host=host,
        port=port,
        expects=served.architecture if served is not None else "",
        api_key=spec.flag("--api-key") or "",
    )


def tree_flags(tree: TreeSpec) -> tuple[int, int, int]:
    """(steps, topk, draft tokens) of a tree, as SGLang counts.

    SGLang counts the root as a draft token, HetSpec does not: 6/10/59 is 6,10,60. A chain of depth D has D tokens and
    the root.
    """
    nodes = min(tree.num_nodes, tree.depth) if tree.top_k == 1 else tree.num_nodes
    return tree.depth, tree.top_k, nodes + 1


def tree_of_flags(steps: int, topk: int, draft_tokens: int) -> TreeSpec:
    """The inverse of `tree_flags`."""
    return TreeSpec(depth=steps, top_k=topk, num_draft_tokens=max(1, draft_tokens - 1))


def tree_words(tree: TreeSpec) -> list[str]:
    """The words of SGLang's command line that ask for a tree."""
    names = ("--speculative-num-steps", "--speculative-eagle-topk", "--speculative-num-draft-tokens")
    return [word for name, number in zip(names, tree_flags(tree)) for word in (name, str(number))]


def server_words(
    spec: SGLangSpec,
    *,
    base: Path,
    served: ServedDraft | None,
    tree: TreeSpec,
    resources: ResourcesSpec,
    address: tuple[str, int] | None = None,
) -> list[str]:
    """The words of SGLang's command line, for a server or the offline engine. A flag of the user's replaces HetSpec's.

    Args:
        spec, base, served, tree, resources: as of `plan_launch`.
        address: host and port of a server; None for the offline engine.
    """
    ours: list[tuple[str, str]] = [("--model-path", str(base)), ("--dtype", served_dtype(resources))]
    if address is not None:
        ours += [("--host", address[0]), ("--port", str(address[1]))]
    if served is not None:
        asked = tree_words(tree)
        ours += [
            ("--speculative-algorithm", served.algorithm),
            ("--speculative-draft-model-path", str(served.folder)),
            *zip(asked[::2], asked[1::2]),
        ]
        if served.token_map is not None:
            ours.append(("--speculative-token-map", str(served.token_map)))
    if spec.tp_size > 1:
        ours.append(("--tp-size", str(spec.tp_size)))
    switches = (
        ("--disable-cuda-graph", not spec.cuda_graph),
        ("--disable-radix-cache", not spec.radix_cache),
        ("--enable-deterministic-inference", spec.deterministic),
    )
    given = {word.partition("=")[0] for word in spec.flags if word.startswith("--")}
    words: list[str] = []
    for name, value in ours:
        if not given & {name, *_ALIASES.get(name, ())}:
            words += [name, value]
    words += [name for name, wanted in switches if wanted and name not in given]
    return [*words, *spec.flags]


def inside_variables(
    spec: SGLangSpec, inside: Path | None, served: ServedDraft | None, resources: ResourcesSpec
) -> dict[str, str]:
    """`environment`, and the variables that drafts of HetSpec's own classes and float32 need."""
    variables = environment(spec, inside)
    if served is not None and served.needs_package:
        variables["SGLANG_EXTERNAL_MODEL_PACKAGE"] = MODEL_PACKAGE
    if is_float32(spec, resources):
        variables = {**NATIVE_ENVIRONMENT, **variables}
    return variables


def served_dtype(resources: ResourcesSpec) -> str:
    """Number type of the base. `auto` is bfloat16, as the built-in decoding on a GPU; SGLang's own reads the files."""
    return "bfloat16" if resources.dtype == "auto" else resources.dtype


def is_float32(spec: SGLangSpec, resources: ResourcesSpec) -> bool:
    """Whether a server runs in float32, for which SGLang must be hooked (see `plugin.hooks`)."""
    return (spec.flag("--dtype") or served_dtype(resources)) in ("float32", "float")


def check_float32(spec: SGLangSpec, resources: ResourcesSpec, found: versions.Installed) -> None:
    """Check that SGLang can be hooked for float32, if the server runs in float32.

    Raises:
        ModelError: the source of this SGLang does not fit the hooks.
    """
    if is_float32(spec, resources) and found.native:
        raise ModelError(
            f"float32 needs hooks inside SGLang, and {found.version} differs from {versions.INSIDE_RANGE}, "
            f"for which they are made: {found.native[0]}",
            hint="serve in bfloat16 or float16 (--set resources.dtype=bfloat16), or with the version they are made for",
        )


def link_inside(folder: Path) -> Path:
    """Write a folder for SGLang's PYTHONPATH: a link to this package, and two small files with its entry point."""
    folder.mkdir(parents=True, exist_ok=True)
    package = Path(hetspec_core.__file__).resolve().parent
    link = folder / "hetspec_core"
    if not (link.is_symlink() and link.resolve() == package):
        link.unlink(missing_ok=True)
        link.symlink_to(package, target_is_directory=True)
    about = folder / f"hetspec_inside-{hetspec_core.__version__}.dist-info"
    about.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: hetspec-inside\nVersion: {hetspec_core.__version__}\n"
    write_atomic(about / "METADATA", metadata.encode())
    write_atomic(about / "entry_points.txt", f"[sglang.srt.plugins]\nhetspec_trees = {PLUGIN}\n".encode())
    return folder
