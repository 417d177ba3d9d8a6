"""How the embedded model reads and writes: its tokenizer, chat template and training texts.

Byte-level BPE, so any text can be encoded; digits are split, so numbers are written
digit by digit and a slip is one sampled token.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from trueplex.data.embedded.tasks import SUITES, tasks
from trueplex.types import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END, PAD, USER, ASSISTANT = "<|end|>", "<|pad|>", "<|user|>", "<|assistant|>"
THINK, THINK_END = "<think>", "</think>"
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<|' + ('assistant' if m['role'] == 'assistant' else 'user') + '|>' + m['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>' }}{% endif %}"
)
VOCABULARY = 512


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer on the training texts; deterministic on every machine."""
    from transformers import PreTrainedTokenizerFast

    sample = []
    for suite in SUITES.values():
        stream, rng = tasks(suite.name, "practice"), Random(0)
        for _ in range(300):
            task = next(stream)
            thought, answer = suite.think(rng, task)
            sample += [task.text, thought, conclude(answer)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        sample,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[PAD, END, USER, ASSISTANT, THINK, THINK_END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, pad_token=PAD, chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False, model_max_length=2048,
    )  # fmt: skip


def conclude(answer: str) -> str:
    return f"Answer: \\boxed{{{answer}}}"


def render(task_text: str, thought: str, answer: str) -> tuple[str, str]:
    """A training text as (prompt, response), the prompt being what the chat template renders."""
    prompt = f"{USER}{Problem(task_text).text}{END}{ASSISTANT}{THINK}"
    return prompt, f"{thought}\n{THINK_END}{conclude(answer)}{END}"
