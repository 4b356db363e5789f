"""Keys among SGLang's settings are taken out of a spec before it is written, and put back where they are needed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.config import resolve
from hetspec_core.errors import SpecError
from hetspec_core.files import write_atomic
from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.paths import make_folders
from hetspec_core.service.chat.conversation import ChatHistory
from hetspec_core.service.library import Library
from hetspec_core.service.workbench import Workbench
from hetspec_core.sglang.launch import plan_launch
from hetspec_core.spec import ResourcesSpec, RunSpec, SGLangSpec, TreeSpec
from tests.fakes.specs import small_spec

KEY = "TOPSECRETKEY"
VARIABLE = "HETSPEC_SGLANG_API_KEY"
TOKEN = "hf_abcdefghijklmnopqrstuvwx"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("flags", "sealed", "variable"),
    [
        (("--api-key", KEY), ("--api-key", "***"), VARIABLE),
        ((f"--api-key={KEY}",), ("--api-key=***",), VARIABLE),
        (
            ("--admin-api-key", KEY, "--tp", "2"),
            ("--admin-api-key", "***", "--tp", "2"),
            "HETSPEC_SGLANG_ADMIN_API_KEY",
        ),
        (("--ssl-keyfile-password", KEY), ("--ssl-keyfile-password", "***"), "HETSPEC_SGLANG_SSL_KEYFILE_PASSWORD"),
        (("--else", TOKEN), ("--else", "***"), "HETSPEC_SGLANG_ELSE"),
    ],
)
def test_a_key_among_the_flags_is_hidden_in_both_forms(
    flags: tuple[str, ...], sealed: tuple[str, ...], variable: str
) -> None:
    spec, keys = SGLangSpec(flags=flags).sealed()
    assert spec.flags == sealed and list(keys) == [variable] and keys[variable] in (KEY, TOKEN)
    assert spec.opened(keys).flags == flags
    with pytest.raises(SpecError) as lacking:
        spec.opened({})
    assert variable in lacking.value.hint


def test_what_is_no_key_stays_as_it_is() -> None:
    flags = ("--ssl-keyfile", "a.pem", "--speculative-token-map", "map.pt", "--api-key", "", "--max-total-tokens", "9")
    spec = SGLangSpec(flags=flags, environment={"CUDA_HOME": "/x", "HF_TOKEN": KEY})
    sealed, keys = spec.sealed()
    assert sealed.flags == flags and sealed.environment == {"CUDA_HOME": "/x", "HF_TOKEN": "***"}
    assert sealed.opened(keys) == spec


@given(st.lists(st.sampled_from(["--api-key", "--x-token", "--tp", "--enable-metrics", "--a-key=v", "v", "w"])))
def test_a_spec_that_was_sealed_has_no_key_and_is_opened_to_what_it_was(words: list[str]) -> None:
    spec = SGLangSpec(flags=tuple(words))
    sealed, keys = spec.sealed()
    assert len(sealed.flags) == len(spec.flags) and sealed.sealed() == (sealed, {})
    if all(words.count(flag) < 2 for flag in ("--api-key", "--x-token", "--a-key=v")):  # else the last one counts
        assert sealed.opened(keys) == spec


def test_a_user_name_in_an_address_is_refused_without_being_repeated() -> None:
    with pytest.raises(ValueError, match=VARIABLE) as refused:
        SGLangSpec(url=f"http://me:{KEY}@host:1")
    assert KEY not in str(refused.value.errors()[0]["msg"])  # type: ignore[attr-defined]


def with_key(flags: tuple[str, ...] = ("--api-key", KEY)) -> RunSpec:
    return small_spec("served", "serve").model_copy(update={"sglang": SGLangSpec(flags=flags)})


def all_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_no_file_of_a_home_holds_the_key_of_a_run(home: Path) -> None:
    asked = resolve("quick-demo", stage="serve", overrides=[f'sglang.flags=["--api-key", "{KEY}"]'])
    with Workbench(home) as workbench:
        handles = [workbench.submit(with_key()), workbench.submit(asked)]
        workbench.registry.sync_all()
        assert workbench.summaries([f"text:{KEY}"]) == []
        explained = {one.key: one for one in Library(workbench).explain(handles[1].run_id)}
        assert explained["sglang.flags"].source == "--set sglang.flags"
    assert all("***" in handle.paths.spec.read_text() for handle in handles)
    assert KEY.encode() not in all_bytes(home)


class Recorder(LocalExecutor):
    """An executor that starts nothing and keeps what its workers would find in their environment."""

    seen: list[dict[str, str]] = []  # noqa: RUF012 - one list for all copies

    def launch(self, *arguments: object, **options: object) -> None:  # type: ignore[override]
        self.seen.append(dict(self.environment))


def test_the_key_reaches_the_workers_by_their_environment_and_is_asked_for_again_by_a_retry(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Recorder.seen.clear()
    with Workbench(home, Recorder()) as workbench:
        run_id = workbench.submit(with_key()).run_id
        workbench.start(run_id)
        assert Recorder.seen[-1][VARIABLE] == KEY
    with Workbench(home, Recorder()) as later:
        later.cancel(run_id)
        with pytest.raises(SpecError) as refused:
            Library(later).retry(run_id)
        assert VARIABLE in refused.value.hint and len(later.runs()) == 1
        monkeypatch.setenv(VARIABLE, "again")
        later.start(Library(later).retry(run_id))
        assert Recorder.seen[-1][VARIABLE] == "again"


def test_the_command_line_of_a_server_has_no_key_and_its_records_read_as_before(tmp_path: Path) -> None:
    about = {"base": tmp_path, "served": None, "tree": TreeSpec(), "resources": ResourcesSpec(), "port": 1}
    launch = plan_launch(SGLangSpec(flags=("--api-key", KEY, "--tp", "2")), **about)  # type: ignore[arg-type]
    assert KEY not in " ".join(launch.command) and launch.api_key == KEY
    assert launch.public_command[1:4] == ["-P", "-m", "sglang.launch_server"] and launch.public_command[-4:] == [
        "--api-key",
        "***",
        "--tp",
        "2",
    ]
    plain = plan_launch(SGLangSpec(), **about)  # type: ignore[arg-type]
    assert plain.command == plain.public_command and plain.command[1:4] == ["-P", "-m", "sglang.launch_server"]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_home_that_is_made_is_for_its_user_alone_and_what_is_written_in_it_respects_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "new" / "home"
    monkeypatch.setenv("HETSPEC_HOME", str(home))
    before = os.umask(0o022)
    try:
        with Workbench() as workbench:
            spec = small_spec("asked", "generate")
            asked, other = workbench.submit(spec), workbench.submit(small_spec("other"))
        ChatHistory(base="b").save(home / "conversations" / "one.json")
        os.umask(0o077)
        write_atomic(tmp_path / "strict.txt", "x")
        os.umask(0o022)
        write_atomic(tmp_path / "open.txt", "x")
        make_folders(tmp_path / "elsewhere" / "deep")
    finally:
        os.umask(before)
    assert mode(home) == 0o700 and mode(home.parent) == 0o755
    assert mode(asked.paths.folder) == 0o700 and mode(other.paths.folder) == 0o750
    assert mode(other.paths.spec) == 0o440
    assert mode(home / "conversations" / "one.json") == 0o600
    assert mode(tmp_path / "strict.txt") == 0o600 and mode(tmp_path / "open.txt") == 0o644
    assert mode(tmp_path / "elsewhere") == 0o755


@pytest.mark.parametrize("url", [f"http://127.0.0.1:30000/?api_key={KEY}", f"http://127.0.0.1:30000#{KEY}"])
def test_a_server_address_with_a_query_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match=VARIABLE) as caught:
        SGLangSpec(url=url)
    assert KEY not in str(caught.value.errors()[0]["msg"])  # type: ignore[attr-defined]
