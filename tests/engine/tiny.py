"""A tiny random Llama with its tokenizer, as a directory, for tests that need a real model in milliseconds.

The tokenizer is a byte-level BPE with a few merges, three special tokens (`<|pad|>`, `<|start|>`, `<|end|>`) and a
chat template without a default system message. Its pad differs from its end token unless `pad_is_end` asks for
SmolLM2's habit (one token for both).
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

TEMPLATE = (
    "{% for message in messages %}{{ '<|start|>' + message['role'] + '\\n' + message['content'] + '<|end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
)
_CORPUS = [
    "system user assistant",
    "good bad yes no the a of to and is it",
    "What is the name of the good dog? The dog is red.",
]


def tiny_tokenizer(*, pad_is_end: bool = False, template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        _CORPUS,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<|pad|>", "<|start|>", "<|end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|start|>",
        eos_token="<|end|>",
        pad_token="<|end|>" if pad_is_end else "<|pad|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny_model(
    directory: Path,
    *,
    seed: int = 0,
    layers: int = 2,
    hidden: int = 32,
    spread: float = 0.02,
    tied: bool = True,
    reward: bool = False,
    pad_is_end: bool = False,
    template: str | None = TEMPLATE,
) -> Path:
    """Write a random model directory and return it.

    Args:
        spread: standard deviation of the weights; 0.02 gives a nearly uniform policy, 0.3 a peaked one.
        reward: write a `LlamaForSequenceClassification(num_labels=1)` instead of a policy.
    """
    tokenizer = tiny_tokenizer(pad_is_end=pad_is_end, template=template)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=spread,
        tie_word_embeddings=tied,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if reward:
            config.num_labels = 1
            model = LlamaForSequenceClassification(config)
        else:
            model = LlamaForCausalLM(config)
            model.generation_config = GenerationConfig(
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
