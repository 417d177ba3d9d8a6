"""Pre-train the embedded model, or a sibling with recurrent layers, from scratch, on CPU or GPU, resumable at any checkpoint.

    python -m trueplex.reference.pretrain --out runs/base --steps 4500
    python -m trueplex.reference.pretrain --out runs/hybrid --layers hybrid --begun --steps 600 --decay 200

Every batch is a pure function of (seed, step), so a resumed run sees the texts it would have
seen. Prompts carry no loss. The schedule is warmup, stable, decay: in its stable phase a run can be resumed
with more steps. The result is a plain Hugging Face folder in bf16.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments

from trueplex.data.embedded.tasks import SUITES, tasks
from trueplex.files import write_text, writing
from trueplex.messages import exit_code
from trueplex.models.load import reference_path
from trueplex.reference.sibling import LAYERS, SHAPE, begin_from, new_model
from trueplex.reference.text import build_tokenizer, render
from trueplex.train.common.state import last_checkpoint

BATCHES_A_DRAW = 8  # texts are drawn for this many batches at once and sorted by length: less padding
IGNORED = -100


class Texts(Dataset):
    """Item i is the i-th batch: {"input_ids", "attention_mask", "labels"}, each int64 [B, T]."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, steps: int, rows: int, seed: int) -> None:
        self.tokenizer, self.steps, self.rows, self.seed = tokenizer, steps, rows, seed
        self._drawn: tuple[int, list[list[tuple[list[int], list[int]]]]] = (-1, [])

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        draw, part = divmod(i, BATCHES_A_DRAW)
        if self._drawn[0] != draw:
            self._drawn = (draw, self._draw(draw))
        return self._pad(self._drawn[1][part])

    def _draw(self, draw: int) -> list[list[tuple[list[int], list[int]]]]:
        rng, texts = Random(f"{self.seed}/{draw}"), []
        count = self.rows * BATCHES_A_DRAW
        streams = {name: tasks(name, "practice", rng.randrange(2**32)) for name in SUITES}
        for k in range(count):
            name = list(SUITES)[k % len(SUITES)]
            task = next(streams[name])
            texts.append(render(task.text, *SUITES[name].think(rng, task)))
        prompts = self.tokenizer([p for p, _ in texts], add_special_tokens=False)["input_ids"]
        responses = self.tokenizer([r for _, r in texts], add_special_tokens=False)["input_ids"]
        pairs = sorted(zip(prompts, responses, strict=True), key=lambda pair: len(pair[0]) + len(pair[1]))
        batches = self._even(pairs)
        rng.shuffle(batches)
        return batches

    @staticmethod
    def _even(pairs: list[tuple[list[int], list[int]]]) -> list[list[tuple[list[int], list[int]]]]:
        """Cut sorted texts into batches of about equal tokens."""
        total = sum(len(p) + len(r) for p, r in pairs)
        batches: list[list[tuple[list[int], list[int]]]] = [[] for _ in range(BATCHES_A_DRAW)]
        spent = 0
        for pair in pairs:
            batches[min(BATCHES_A_DRAW - 1, spent * BATCHES_A_DRAW // total)].append(pair)
            spent += len(pair[0]) + len(pair[1])
        return batches

    def _pad(self, pairs: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
        longest = max(len(p) + len(r) for p, r in pairs)
        ids = torch.full((len(pairs), longest), self.tokenizer.pad_token_id)
        labels = torch.full_like(ids, IGNORED)
        mask = torch.zeros_like(ids)
        for row, (prompt, response) in enumerate(pairs):
            end = len(prompt) + len(response)
            ids[row, :end] = torch.tensor(prompt + response)
            labels[row, len(prompt) : end] = torch.tensor(response)
            mask[row, :end] = 1
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@dataclass(frozen=True)
class Recipe:
    """How a model is pre-trained.

    Attributes:
        steps, decay: optimizer steps in all, and the last of them, over which the learning rate decays.
        rows: texts a step, on average.
        lr, warmup: peak learning rate, and the steps until it is reached.
        layers: ``attention``, as the embedded model has it, or ``hybrid``, where every other layer is linear attention.
        begun: begin with the embedded model, but for the attention of every other layer (`sibling`).
    """

    steps: int = 4500
    decay: int = 1000
    rows: int = 64
    lr: float = 2e-3
    warmup: int = 200
    seed: int = 0
    layers: str = "attention"
    begun: bool = False
    save_every: int = 250


def fixed_tokenizer(out: Path, begun: bool) -> PreTrainedTokenizerFast:
    """The tokenizer of a run: the embedded model's, or built once, then read from its folder, as it changes with the tasks' texts."""
    if not (out / "tokenizer.json").exists():
        (PreTrainedTokenizerFast.from_pretrained(reference_path()) if begun else build_tokenizer()).save_pretrained(out)
    return PreTrainedTokenizerFast.from_pretrained(out)


def pretrain(out: Path, recipe: Recipe) -> None:
    """Train, checkpointing under `out`/checkpoints, and write the model folder to `out`."""
    tokenizer = fixed_tokenizer(out, recipe.begun)
    texts = Texts(tokenizer, recipe.steps, recipe.rows, recipe.seed)
    cpu = not torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"), max_steps=recipe.steps, per_device_train_batch_size=1,
        learning_rate=recipe.lr, adam_beta2=0.98, weight_decay=0.05, max_grad_norm=1.0, warmup_steps=recipe.warmup,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": recipe.decay, "min_lr_ratio": 0.02},
        train_sampling_strategy="sequential", save_steps=recipe.save_every, save_total_limit=2, logging_steps=50,
        seed=recipe.seed, use_cpu=cpu, bf16=not cpu, report_to="none", remove_unused_columns=False,
    )  # fmt: skip
    model = new_model(tokenizer, recipe.seed, recipe.layers)
    if recipe.begun:
        begin_from(model, AutoModelForCausalLM.from_pretrained(reference_path()))
    trainer = Trainer(model, arguments, train_dataset=texts, data_collator=lambda x: x[0])
    started, last = time.time(), last_checkpoint(out / "checkpoints")
    with writing(out):
        trainer.train(resume_from_checkpoint=last)
        trainer.model.to(torch.bfloat16).save_pretrained(out)
    record = {
        **asdict(recipe), "shape": SHAPE, "parameters": model.num_parameters(),
        "seconds_of_last_run": round(time.time() - started), "torch": torch.__version__,
        "device": "cpu" if cpu else torch.cuda.get_device_name(), "log": trainer.state.log_history,
    }  # fmt: skip
    write_text(out / "pretrain.json", json.dumps(record, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the model")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="total optimizer steps")
    parser.add_argument(
        "--decay", type=int, default=Recipe.decay, help="last steps, over which the learning rate decays"
    )
    parser.add_argument("--rows", type=int, default=Recipe.rows, help="texts a step, on average")
    parser.add_argument("--lr", type=float, default=Recipe.lr, help="peak learning rate")
    parser.add_argument(
        "--warmup", type=int, default=Recipe.warmup, help="first steps, over which the learning rate rises"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=Recipe.save_every, help="steps between checkpoints")
    parser.add_argument("--layers", choices=LAYERS, default=Recipe.layers, help="what its layers are")
    parser.add_argument(
        "--begun", action="store_true", help="begin with the embedded model, but for the attention of every other layer"
    )
    options = vars(parser.parse_args())
    pretrain(options.pop("out"), Recipe(**options))


if __name__ == "__main__":
    sys.exit(exit_code(main))
