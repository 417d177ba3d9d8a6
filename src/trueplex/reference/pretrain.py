"""Pre-train the embedded model from scratch, on CPU or GPU, resumable at any checkpoint.

    python -m trueplex.reference.pretrain --out runs/base --steps 4500

Every batch is a pure function of (seed, step), so a resumed run sees the texts it would have
seen. Prompts carry no loss. The schedule is warmup, stable, decay: in its stable phase a run can be resumed
with more steps. The result is a plain Hugging Face folder in bf16.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from random import Random

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, Trainer, TrainingArguments

from trueplex.data.embedded.tasks import SUITES, tasks
from trueplex.reference.text import build_tokenizer, render
from trueplex.train.common.state import last_checkpoint

SHAPE = {"hidden_size": 128, "num_hidden_layers": 6, "intermediate_size": 384, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 32}  # fmt: skip
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


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer), tie_word_embeddings=True, max_position_embeddings=2048,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
            initializer_range=0.04, **SHAPE,
        )
    )  # fmt: skip


def fixed_tokenizer(out: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a run: built once, then read from its folder, as it changes with the tasks' texts."""
    if not (out / "tokenizer.json").exists():
        build_tokenizer().save_pretrained(out)
    return PreTrainedTokenizerFast.from_pretrained(out)


def pretrain(out: Path, steps: int, decay: int, rows: int, lr: float, seed: int, save_every: int = 250) -> None:
    """Train, checkpointing under `out`/checkpoints, and write the model folder to `out`."""
    tokenizer = fixed_tokenizer(out)
    texts = Texts(tokenizer, steps, rows, seed)
    cpu = not torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"), max_steps=steps, per_device_train_batch_size=1,
        learning_rate=lr, adam_beta2=0.98, weight_decay=0.05, max_grad_norm=1.0, warmup_steps=200,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": decay, "min_lr_ratio": 0.02},
        train_sampling_strategy="sequential", save_steps=save_every, save_total_limit=2, logging_steps=50,
        seed=seed, use_cpu=cpu, bf16=not cpu, report_to="none", remove_unused_columns=False,
    )  # fmt: skip
    trainer = Trainer(new_model(tokenizer, seed), arguments, train_dataset=texts, data_collator=lambda x: x[0])
    started, last = time.time(), last_checkpoint(out / "checkpoints")
    trainer.train(resume_from_checkpoint=last)
    trainer.model.to(torch.bfloat16).save_pretrained(out)
    record = {
        "steps": steps, "decay": decay, "rows": rows, "lr": lr, "seed": seed, "shape": SHAPE,
        "seconds_of_last_run": round(time.time() - started), "torch": torch.__version__,
        "device": "cpu" if cpu else torch.cuda.get_device_name(), "log": trainer.state.log_history,
    }  # fmt: skip
    (out / "pretrain.json").write_text(json.dumps(record, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the model")
    parser.add_argument("--steps", type=int, default=4500, help="total optimizer steps")
    parser.add_argument("--decay", type=int, default=1000, help="last steps, over which the learning rate decays")
    parser.add_argument("--rows", type=int, default=64, help="texts a step, on average")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pretrain(options.out, options.steps, options.decay, options.rows, options.lr, options.seed)


if __name__ == "__main__":
    main()
