"""The SGLang backend against a fake server: answers, trees, turns of several servers. Nothing here computes a token.

What is proved on a real server, and where the fake's words come from, is in docs/sglang.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hetspec_core.acceptance import AcceptStats
from hetspec_core.config import resolve
from hetspec_core.engine.backends.backend import Watcher
from hetspec_core.errors import Cancelled, DataError, HetSpecError, ModelError, StageFailed
from hetspec_core.events.chat import Step
from hetspec_core.sglang.backend import SGLangBackend
from hetspec_core.sglang.client import ServerFacts
from hetspec_core.sglang.servers import SGLangServer, check_model
from hetspec_core.spec import ResourcesSpec, SGLangSpec
from tests.fakes.sglang_pair import CHAIN, GREEDY, Pair, pool_of, running, wait_for
from tests.fakes.sglang_site import site_spec


@contextmanager
def backend_of(pair: Pair, spec: SGLangSpec) -> Iterator[SGLangBackend]:
    backend = SGLangBackend()
    backend.configure(spec.model_dump(mode="json", exclude_defaults=True))
    try:
        backend.open(pair[0], ResourcesSpec())
        yield backend
    finally:
        backend.close()


def listener(steps: list[Step], tokens: list[int], trees: bool = True) -> Watcher:
    return Watcher(on_tokens=tokens.extend, on_step=steps.append, trees=trees)


def test_an_answer_comes_with_the_tree_of_every_step(pair: Pair, site: Path) -> None:
    with backend_of(pair, site_spec(site)) as backend:
        assert "trees" in backend.facts().capabilities
        backend.use_draft(str(pair[1].checkpoint), "tiny")
        steps: list[Step] = []
        tokens: list[int] = []
        written = backend.answer([1, 2, 3], GREEDY, listener(steps, tokens))
        assert written.tokens == list(range(5, 14)) and tokens == [5]
        assert [len(step.committed) for step in steps] == [1, 3, 2, 1, 1]
        assert [step.count.accepted for step in steps] == [0, 2, 1, 0, 2]  # the last was cut by the limit
        assert all(step.tree is not None for step in steps)
        tree = steps[1].tree
        assert tree is not None and tree.path == [1, 2] and tree.draft_probs == [1.0, 0.5, 0.5, 0.5]
        assert [step.kv_tokens for step in steps] == [3, 4, 7, 9, 10]


def test_plain_and_draft_take_turns_with_a_server_each(pair: Pair, site: Path) -> None:
    with backend_of(pair, site_spec(site, keep_servers=2)) as backend:
        steps: list[Step] = []
        tokens: list[int] = []
        backend.answer([1], GREEDY, listener(steps, tokens))
        assert steps == [] and tokens == list(range(5, 14))
        plain = backend.served(GREEDY.model_copy(update={"plain": True}))
        backend.use_draft(str(pair[1].checkpoint), "tiny")
        backend.answer([1], GREEDY, listener(steps, tokens, trees=False))
        assert len(steps) == 5 and steps[0].tree is None
        assert backend.served(GREEDY.model_copy(update={"plain": True})) is plain
        plain_s, costs = backend.calibrate([1], GREEDY, ["3/1/3"], lambda: False)
        assert plain_s > 0 and costs[0].steps == 5


def test_a_server_that_is_started_with_a_shorter_context_is_known_for_it(pair: Pair, site: Path) -> None:
    with backend_of(pair, site_spec(site, flags=("--context-length", "300"))) as backend:
        assert backend.facts().context_tokens == 300


def test_a_running_server_is_attached_to_and_left_running(pair: Pair, site: Path, tmp_path: Path) -> None:
    with running(pair, site, tmp_path) as server:
        with backend_of(pair, SGLangSpec(url=server.launch.url)) as backend:
            facts = backend.facts()
            assert facts.tree == "3/1/3" and facts.context_tokens == 500 - 4  # of which drafts keep four
            assert facts.capabilities == ("sampling",), "plain decoding, to compare with, it has none"
            backend.use_draft(server.launch.url, "theirs")
            steps: list[Step] = []
            backend.answer([1], GREEDY, listener(steps, []))
            assert len(steps) == 5
            with pytest.raises(ModelError, match=r"decoding\.draft_vocab is 16, .* the server was started with"):
                backend.answer([1], GREEDY.model_copy(update={"draft_vocab": 16}), listener([], []))
            backend.use_draft("", "")
            with pytest.raises(ModelError, match="SGLang cannot leave it out"):
                backend.answer([1], GREEDY, listener([], []))
        assert server.alive


@pytest.mark.parametrize(
    ("mode", "words"), [("other_model", "serves .*QwenForCausalLM"), ("old", "0.4.9; supported are")]
)
def test_a_server_of_another_model_or_version_is_refused(
    pair: Pair, site: Path, tmp_path: Path, mode: str, words: str
) -> None:
    fleet = pool_of(pair, site_spec(site, mode, trees=False), tmp_path)
    launch = fleet.plan(None, CHAIN)
    server = SGLangServer(launch, tmp_path / "log")
    server.start()
    try:
        wait_for(server.client.healthy)
        with pytest.raises(HetSpecError, match=words), backend_of(pair, SGLangSpec(url=launch.url)):
            pass
    finally:
        server.stop()


def test_a_crash_in_an_answer_gives_the_reason_of_the_log(pair: Pair, site: Path) -> None:
    with backend_of(pair, site_spec(site, "die_midstream")) as backend:
        with pytest.raises(StageFailed) as failure:
            backend.answer([1], GREEDY, listener([], []))
        assert "status 7: RuntimeError: the fake fell over" in failure.value.message


def test_a_running_server_is_not_taken_for_one_with_another_draft(pair: Pair, site: Path, tmp_path: Path) -> None:
    own = Path(str(pair[1].checkpoint))
    other = shutil.copytree(own, tmp_path / "other")
    with running(pair, site, tmp_path) as server, backend_of(pair, SGLangSpec(url=server.launch.url)) as backend:
        assert server.facts is not None
        for folder in (str(own), server.facts.draft, server.launch.url):  # as `serve` exported it, or the export itself
            assert backend.use_draft(folder, "d") is not None
        for folder in (str(other), str(tmp_path / "nowhere")):
            with pytest.raises(ModelError, match=f"drafts with .*, and not with {folder}") as failure:
                backend.use_draft(folder, "d")
            assert "leave the draft out" in failure.value.hint


def test_only_the_tree_that_a_running_server_has_is_calibrated(pair: Pair, site: Path, tmp_path: Path) -> None:
    with running(pair, site, tmp_path) as server, running(pair, site, tmp_path / "plain", draft=False) as plain:
        spec = SGLangSpec(url=server.launch.url, plain_url=plain.launch.url)
        with backend_of(pair, spec) as backend:
            backend.use_draft(server.launch.url, "theirs")
            assert "calibrate" in backend.facts().capabilities
            assert [cost.tree for cost in backend.calibrate([1], GREEDY, ["3/1/3"], lambda: False)[1]] == ["3/1/3"]
            with pytest.raises(ModelError, match="drafts trees of 3/1/3, not 6/10/59"):
                backend.calibrate([1], GREEDY, ["3/1/3", "6/10/59"], lambda: False)


def test_an_answer_ends_at_the_context_instead_of_being_refused(pair: Pair, site: Path) -> None:
    """SGLang refuses a prompt whose answer could overrun the context, places for drafts counted in."""
    long = GREEDY.model_copy(update={"max_new_tokens": 1000})
    with backend_of(pair, site_spec(site, trees=False)) as backend:
        backend.use_draft(str(pair[1].checkpoint), "tiny")
        written = backend.answer([1] * 400, long, listener([], []))
        assert (len(written.tokens), written.stop_reason) == (500 - 400 - 4, "context")
        completion, _ = backend.complete(backend.served(long), [1] * 480, long)
        assert (len(completion.tokens), completion.stop_reason) == (16, "context")
        assert backend.answer([1] * 487, GREEDY, listener([], [])).stop_reason == "length"
        with pytest.raises(DataError, match="besides the 4 tokens that SGLang keeps for drafts") as failure:
            backend.answer([1] * 496, GREEDY, listener([], []))
        assert failure.value.hint == "shorten it by 1 tokens or more"


def test_steps_that_come_several_at_once_are_counted_as_the_server_counts_them(pair: Pair, site: Path) -> None:
    with backend_of(pair, site_spec(site, "lumps", trees=False)) as backend:
        backend.use_draft(str(pair[1].checkpoint), "tiny")
        steps: list[Step] = []
        written = backend.answer([1], GREEDY, listener(steps, []))
        assert written.tokens == list(range(5, 14)) and len(steps) < 5
        assert written.counts is not None and AcceptStats(written.counts).accept_length == pytest.approx(8 / 5)


def test_a_start_and_a_measurement_are_given_up_when_it_is_asked_for(pair: Pair, site: Path) -> None:
    with backend_of(pair, site_spec(site, "slow", trees=False)) as backend:
        backend.stop_asked = lambda: True
        with pytest.raises(Cancelled):
            backend.answer([1], GREEDY, listener([], []))
        backend.stop_asked = lambda: False
        served = backend.served(GREEDY)
        calls: list[int] = []
        backend.stop_asked = lambda: len(calls) > 2 or bool(calls.append(1))
        with pytest.raises(Cancelled, match="measurement"):
            backend.complete(served, [1], GREEDY)
        assert len(calls) == 3, "it was looked at between two pieces"


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("smollm2-llama-eagle", "LlamaForCausalLM"),
        ("gemma3-270m-llama-eagle", "Gemma3ForCausalLM"),
    ],
)
def test_a_server_is_known_by_its_type_or_by_the_family_in_the_name_of_its_class(recipe: str, name: str) -> None:
    base = resolve(recipe, stage="bench").spec.base
    assert base is not None
    for facts in (
        ServerFacts("0.5.17", "elsewhere", architectures=(name,)),
        ServerFacts("0.5.17", "elsewhere", architectures=("Odd",), model_type=base.architecture.model_type),
        ServerFacts("0.5.17", "elsewhere"),
    ):
        check_model(facts, base, "http://here")
    for facts in (
        ServerFacts("0.5.17", "elsewhere", architectures=("Qwen3ForCausalLM",)),
        ServerFacts("0.5.17", "elsewhere", architectures=("Qwen3ForCausalLM",), model_type="qwen3"),
    ):
        with pytest.raises(ModelError, match="serves elsewhere"):
            check_model(facts, base, "http://here")
