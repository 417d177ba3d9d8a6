"""Give a model thinking tags: fine-tune it on its own right traces, each put between <think> and </think>, with its answer behind.

    python -m trueplex.train.tagged --model ./my-model --rollouts runs/tagged/rollouts --out runs/tagged

Instruction models without tags answer and reason in one text, so that nothing says where merged thinking ends. This teaches
the form and as little else as can be: what stands between the tags is what the model itself wrote. `make tagged MODEL=…`
samples the traces first. LoRA on all linear layers, and the two tags' embeddings; an interrupted run is resumed by the same
command. `OUT/model` is a plain model folder, whose chat template opens thinking.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
    set_seed,
)

from trueplex.checksums import seal
from trueplex.data.traces import read_traces
from trueplex.errors import InputError, ModelError
from trueplex.files import writing
from trueplex.locks import locks
from trueplex.messages import exit_code
from trueplex.models.load import default_device, loading, locate, reading, unmark_gguf, weights_only
from trueplex.models.markers import template_of
from trueplex.models.precision import resolve_dtype
from trueplex.train.common.recipe import check_numbers, check_seed
from trueplex.train.common.run import claim
from trueplex.train.common.state import last_checkpoint

TAGS = ("<think>", "</think>")
OPENING = "{%- if add_generation_prompt %}{{- '" + TAGS[0] + "\\n' }}{%- endif %}"  # at the end of a chat template
ANSWER = "\n\nThe answer is \\boxed{{{}}}."


@dataclass(frozen=True)
class Recipe:
    """How it is trained.

    Attributes:
        examples: right traces at most, spread over as many problems as there are.
        longest: tokens of prompt and trace; a longer trace is left out.
        together: examples of one pass; a step is `batch` of them.

    Raises:
        OptionError: a value is out of range.
    """

    examples: int = 2000
    longest: int = 768
    epochs: int = 2
    batch: int = 16
    together: int = 4
    rank: int = 16
    lr: float = 2e-4
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(self, ("examples", "longest", "epochs", "batch", "together", "rank", "lr"))
        check_seed(self.seed)


def with_tags(model: Any, tokenizer: Any) -> list[int]:
    """Add the tags as special tokens, each beginning as the mean of the tokens that spelled it, and let the template open thinking.

    Returns the tags' ids. Raises ModelError for a model without a chat template, or that has the tags already.
    """
    template = template_of(tokenizer)
    if not template:
        raise ModelError("the model has no chat template, which would open its thinking. Try: an instruction model")
    if TAGS[1] in tokenizer.get_vocab():
        raise ModelError(f"the model knows {TAGS[1]} already. Try: use it as it is")
    spelled = [tokenizer(tag, add_special_tokens=False)["input_ids"] for tag in TAGS]
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=True) for tag in TAGS], special_tokens=True)
    tokenizer.chat_template = template + OPENING
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    ids = tokenizer.convert_tokens_to_ids(list(TAGS))
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            for tag, parts in zip(ids, spelled, strict=True):
                layer.weight[tag] = layer.weight[parts].mean(0)
    return ids


def examples_of(store: Path, tokenizer: Any, recipe: Recipe) -> list[dict[str, list[int]]]:
    """Right traces as what the model is to write: token ids, and labels that leave the prompt out.

    Raises InputError when no trace is right.
    """
    opening = tokenizer(f"{TAGS[0]}\n", add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids)
    by_problem: dict[str, list[dict[str, list[int]]]] = {}
    for trace, prompt in read_traces(store):
        if not trace.correct or trace.steps is None or trace.answer is None:
            continue
        thought = [i for i in trace.steps.ids[:, 0].tolist() if i not in special]
        closing = tokenizer(f"\n{TAGS[1]}{ANSWER.format(trace.answer)}", add_special_tokens=False)["input_ids"]
        written, before = [*thought, *closing, tokenizer.eos_token_id], [*prompt, *opening]
        if len(before) + len(written) <= recipe.longest:
            example = {"input_ids": [*before, *written], "labels": [*[-100] * len(before), *written]}
            by_problem.setdefault(trace.problem.text, []).append(example)
    if not by_problem:
        raise InputError(
            f"{store} has no right trace of at most {recipe.longest} tokens. Try: sample more problems, or raise --longest"
        )
    turns = max(map(len, by_problem.values()))
    return [own[turn] for turn in range(turns) for own in by_problem.values() if turn < len(own)][: recipe.examples]


def train(model: Any, tokenizer: Any, ids: Sequence[int], examples: Sequence[dict[str, list[int]]], recipe: Recipe, out: Path) -> Any:  # fmt: skip
    """Fine-tune, from the last checkpoint under `out`/checkpoints if there is one; returns the model with all merged in."""
    names = {module: name.rpartition(".")[2] for name, module in model.named_modules()}
    embeddings, output = model.get_input_embeddings(), model.get_output_embeddings()
    tied = output.weight is embeddings.weight
    trained = {names[layer]: list(ids) for layer in ((embeddings,) if tied else (embeddings, output))}
    config = LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules="all-linear", task_type="CAUSAL_LM",
                        trainable_token_indices=trained)  # fmt: skip
    learner = get_peft_model(model, config)
    folder = out / "checkpoints"
    asked = TrainingArguments(
        str(folder), per_device_train_batch_size=recipe.together, gradient_accumulation_steps=max(1, recipe.batch // recipe.together),
        num_train_epochs=recipe.epochs, learning_rate=recipe.lr, lr_scheduler_type="cosine", warmup_steps=0.05, seed=recipe.seed,
        save_steps=25, save_total_limit=1, logging_steps=5, report_to=[], use_cpu=model.device.type == "cpu", bf16=False, disable_tqdm=True,
    )  # fmt: skip
    padding = DataCollatorForSeq2Seq(tokenizer, padding=True)
    trainer = Trainer(learner, asked, train_dataset=list(examples), data_collator=padding)  # type: ignore[arg-type]
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    return learner.merge_and_unload().eval()


@locks("out")
def make(name: str, store: Path, recipe: Recipe, out: Path, device: str | None = None) -> Path:
    """The folder of the model with tags. Raises as `with_tags`, `examples_of` and `models.load.load`."""
    place = device or default_device()
    with loading(f"model {name!r}"):
        options = reading(locate(name))
        tokenizer = AutoTokenizer.from_pretrained(**options)
        dtype = resolve_dtype(None, place, torch.bfloat16)
        model = AutoModelForCausalLM.from_pretrained(dtype=dtype, **weights_only(options)).to(place)
    unmark_gguf(model)
    set_seed(recipe.seed)
    ids = with_tags(model, tokenizer)
    with writing(out):
        claim(out, {"base": name, "rollouts": str(store), **asdict(recipe)}, True)
        merged = train(model, tokenizer, ids, examples_of(store, tokenizer, recipe), recipe, out)
        merged.generation_config.eos_token_id = tokenizer.eos_token_id
        merged.save_pretrained(out / "model")
        tokenizer.save_pretrained(out / "model")
    seal(out / "model")
    return out / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="an instruction model: a folder, hub id or GGUF file")
    parser.add_argument("--rollouts", type=Path, required=True, help="its graded traces, from `trueplex rollout`")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and, at the end, the model")
    parser.add_argument("--device")
    for name, default in vars(Recipe()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    given = vars(parser.parse_args())
    name, store, out, device = (given.pop(key) for key in ("model", "rollouts", "out", "device"))
    print(make(name, store, Recipe(**given), out, device))


if __name__ == "__main__":
    sys.exit(exit_code(main))
