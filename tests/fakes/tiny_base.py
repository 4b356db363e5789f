"""A Llama of a few thousand random weights with a small ChatML tokenizer, saved as a model directory."""

from __future__ import annotations

from pathlib import Path

from hetspec_core.spec import Architecture, BaseSpec, PathSource

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PLAIN_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML as models ship it: without generation marks."""

_TEXT = (
    "system user assistant\n",
    "What is the capital of France? The capital of France is Paris.",
    "Write a short story about a dog and a cat. Once upon a time there was a dog.",
    "How many apples are left if you have five and eat two? Three apples are left.",
    "Explain how the sun makes light. List three things to do on a rainy day.",
)


def make_tiny_tokenizer(template: str | None = PLAIN_CHATML, *, markers: tuple[str, ...] = ()):
    """A byte-level BPE tokenizer of 400 tokens that covers any text, and further tokens for `markers`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    fast.add_tokens(list(markers), special_tokens=True)
    fast.chat_template = template
    return fast


def make_word_tokenizer():
    """A tokenizer of some forty words: whatever a random base writes with it is text, and ends soon."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = "system user assistant what how why who is are was the a an of to in on sun moon sea dog cat tree house"
    words += " river stone bread small large red green old new write explain list name count"
    vocabulary = {word: number for number, word in enumerate((*SPECIAL_TOKENS, *words.split()))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    fast.chat_template = PLAIN_CHATML
    return fast


def make_tiny_base(
    folder: Path,
    *,
    seed: int = 0,
    template: str | None = PLAIN_CHATML,
    hidden_size: int = 16,
    layers: int = 2,
    tokenizer=None,
) -> BaseSpec:
    """Save a tiny base in `folder`; returns its spec."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tokenizer or make_tiny_tokenizer(template)
    architecture = Architecture(
        model_type="llama",
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
    )
    config = LlamaConfig(
        **architecture.model_dump(include={"hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"}),
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.5,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return BaseSpec(name="tiny", source=PathSource(path=str(folder)), architecture=architecture)


def make_reciting_base(folder: Path, text: str, *, eos_token: str = "<|im_end|>") -> BaseSpec:
    """A base that writes `text` behind any prompt of ChatML, over and over if nothing stops it; its end is `eos_token`.

    A one-hot embedding, layers that add nothing, and a head that leads from each token to the next. No token of the
    text may come twice.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = make_tiny_tokenizer()
    tokenizer.eos_token = eos_token
    width = len(tokenizer) + len(tokenizer) % 2
    spec = make_tiny_base(folder, tokenizer=tokenizer, hidden_size=width)
    line_end = tokenizer("assistant\n", add_special_tokens=False)["input_ids"][-1]
    chain = [line_end, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert len(set(chain)) == len(chain), "a token comes twice"
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight[:, : len(tokenizer)] = torch.eye(len(tokenizer))
        for token, following in zip(chain, [*chain[1:], line_end], strict=True):
            model.lm_head.weight[following, token] = 1.0
    model.save_pretrained(folder)
    return spec
