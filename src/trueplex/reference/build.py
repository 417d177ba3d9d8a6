"""Build what ships from what was trained: the model folder and its verifier, in their final form.

    python -m trueplex.reference.build --base runs/base --verifier runs/verifier

The model is written in bf16 with its settings (no added instruction, at most 640 new tokens), the
verifier without its checkpoints. A verifier belongs to the bf16 weights, so build the model first,
roll out and train with the built one, then build again with the verifier.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trueplex.loading import reference_path

MAX_NEW_TOKENS = 640
VERIFIER_FILES = ("adapter_config.json", "adapter_model.safetensors", "verifier.json")


def build_model(base: Path, out: Path) -> None:
    """Write the model of a pre-training folder to `out`."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model.config.problem_instruction = ""
    model.generation_config.max_new_tokens = MAX_NEW_TOKENS
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    record = base / "pretrain.json"
    if record.exists():
        shutil.copy(record, out / "pretrain.json")


def build_verifier(trained: Path, out: Path) -> None:
    """Copy a trained verifier folder beside the model."""
    out.mkdir(parents=True, exist_ok=True)
    for name in VERIFIER_FILES:
        shutil.copy(trained / name, out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="folder of a pre-trained model")
    parser.add_argument("--verifier", type=Path, help="folder of a trained verifier")
    parser.add_argument("--out", type=Path, default=reference_path(), help="the model folder to write")
    options = parser.parse_args()
    if options.base:
        build_model(options.base, options.out)
    if options.verifier:
        build_verifier(options.verifier, options.out / "verifier")


if __name__ == "__main__":
    main()
