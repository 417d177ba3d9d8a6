"""`make tagged`: a model without thinking tags learns them from its own right traces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from trueplex.data.traces import Origin, open_store, to_row
from trueplex.errors import InputError, ModelError
from trueplex.models.load import load
from trueplex.models.prompt import make_prompt
from trueplex.solving.api import solve
from trueplex.train import tagged
from trueplex.types import Problem, Status, Steps, Trace


def untagged(folder: Path) -> Path:
    """A tiny instruction model that spells everything in bytes."""
    specials = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelling = Tokenizer(models.BPE({token: i for i, token in enumerate(specials + alphabet)}, []))
    spelling.pre_tokenizer, spelling.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    template = ("{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
                "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}")  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=spelling, eos_token="<|end|>", pad_token="<|pad|>", chat_template=template,
                                        additional_special_tokens=specials[2:])  # fmt: skip
    config = AutoConfig.for_model("qwen3", vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                                  num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=256,
                                  initializer_range=0.1, tie_word_embeddings=False, eos_token_id=1, pad_token_id=0, bos_token_id=None)  # fmt: skip
    config.problem_instruction = ""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.lm_head.weight.data *= 4  # or it could not be sure of anything
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def stored(folder: Path, base: Path, answer: str = "4", correct: bool = True) -> Path:
    """One trace of the model's, as a rollout stores it."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = np.array([*tokenizer("2+2 is 4")["input_ids"], tokenizer.eos_token_id], dtype=np.int32)
    ones, problem = np.ones((len(ids), 1), dtype=np.float32), Problem("2+2?", "a", (answer,))
    trace = Trace(problem, 0, 0, Status.FINISHED, tokens=len(ids), steps=Steps(ids[:, None], ones, -ones, ones[:, 0], ones[:, 0]),
                  text="2+2 is 4", answer=answer, correct=correct)  # fmt: skip
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": problem.text}], add_generation_prompt=True)[
        "input_ids"
    ]
    store = open_store(folder / "traces.jsonl")
    store.append([to_row(trace, prompt, Origin("m", "t", "o"))])
    store.close()
    return folder / "traces.jsonl"


@pytest.mark.slow
def test_a_model_learns_tags_and_thinks_in_multiplex_with_a_readable_answer(tmp_path: Path) -> None:
    base = untagged(tmp_path / "base")
    store = stored(tmp_path, base)
    recipe = tagged.Recipe(epochs=60, batch=1, together=1, rank=32, lr=1e-2)
    made = tagged.make(str(base), store, recipe, tmp_path / "out", "cpu")
    backbone = load(str(made), device="cpu")
    prompt = make_prompt(Problem("2+2?"), backbone)
    assert backbone.markers is not None and prompt.thinking == "open" and prompt.text.endswith("<|assistant|><think>\n")
    example = tagged.examples_of(store, backbone.tokenizer, recipe)[0]
    assert tuple(example["input_ids"][: len(prompt.ids)]) == prompt.ids  # it is asked as it was trained
    solution = solve(backbone, "2+2?", paths=2, verifier="none", thinking="multiplex", max_tokens=60)
    assert solution.answer == "4" and {t.closing for t in solution.traces} == {"model"}
    assert all("</think>\n\nThe answer is \\boxed{4}." in t.text for t in solution.traces), solution.traces[0].text
    assert (
        tagged.make(str(base), store, recipe, tmp_path / "out", "cpu") == made
    )  # resumed at its end: nothing is trained


def test_only_right_traces_are_learned_from_and_their_prompts_are_not(tmp_path: Path) -> None:
    base = untagged(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    known, recipe = len(tokenizer), tagged.Recipe()
    ids = tagged.with_tags(model, tokenizer)
    assert ids == [known, known + 1] and model.get_output_embeddings().weight.shape[0] == known + 2
    spelled = model.get_input_embeddings().weight[tokenizer("think", add_special_tokens=False)["input_ids"]]
    assert model.get_input_embeddings().weight[ids].isfinite().all() and len(spelled) == 5
    (example,) = tagged.examples_of(stored(tmp_path, base), tokenizer, recipe)
    learned = [i for i in example["labels"] if i >= 0]
    assert tokenizer.decode(learned) == "2+2 is 4\n</think>\n\nThe answer is \\boxed{4}.<|end|>"
    (tmp_path / "wrong").mkdir()
    with pytest.raises(InputError, match="no right trace"):
        tagged.examples_of(stored(tmp_path / "wrong", base, correct=False), tokenizer, recipe)
    with pytest.raises(ModelError, match="knows </think> already"):
        tagged.with_tags(model, tokenizer)
