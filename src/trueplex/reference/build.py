"""Build what ships from training runs: the model folder, its policy and their verifiers, in their final form.

    python -m trueplex.reference.build --base runs/base --verifier runs/verifier
    python -m trueplex.reference.build --policy runs/policy/run/best/adapter
    python -m trueplex.reference.build --verifier runs/policy/verifier --of reference-multiplex
    python -m trueplex.reference.build --base runs/hybrid/base --out runs/hybrid/model

The model and the policy, an adapter to it, are written in bf16, the model with its settings (no added instruction, at most 640 new tokens), a
verifier without its checkpoints. A verifier belongs to the bf16 weights, so build the model first,
roll out and train with the built one, then build again with the verifier.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from trueplex.files import read_json, write_text
from trueplex.messages import exit_code
from trueplex.models.load import ADAPTER, REFERENCE, SHIPPED, loading, reference_path
from trueplex.train.common.state import read_weights

MAX_NEW_TOKENS = 640
POLICY = "reference-multiplex"
WEIGHTS = "adapter_model.safetensors"
VERIFIER_FILES = (ADAPTER, WEIGHTS, "verifier.json", "README.md")


def build_model(base: Path, out: Path) -> None:
    """Write the model of a pre-training folder to `out`. Raises ModelError."""
    with loading(f"model {str(base)!r}"):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(base)
    model.config.problem_instruction = ""
    model.config.answer_kind = "boxed"
    model.generation_config.max_new_tokens = MAX_NEW_TOKENS
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    record = base / "pretrain.json"
    if record.exists():
        shutil.copy(record, out / "pretrain.json")


def build_policy(adapter: Path, out: Path) -> None:
    """Write the adapter of a trained policy to `out`, for the embedded model wherever it is installed. Raises StoreError."""
    config = read_json(adapter / ADAPTER, dict[str, Any]) | {"base_model_name_or_path": REFERENCE}
    weights = read_weights(adapter / WEIGHTS)
    write_text(out / ADAPTER, json.dumps(config, indent=1) + "\n")
    save_file({name: w.to(torch.bfloat16) for name, w in weights.items()}, out / WEIGHTS, {"format": "pt"})


def build_verifier(trained: Path, out: Path) -> None:
    """Copy a trained verifier folder beside the model."""
    out.mkdir(parents=True, exist_ok=True)
    for name in VERIFIER_FILES:
        shutil.copy(trained / name, out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="folder of a pre-trained model")
    parser.add_argument("--policy", type=Path, help="adapter folder of a policy trained from the embedded model")
    parser.add_argument("--verifier", type=Path, help="folder of a trained verifier")
    parser.add_argument(
        "--out", type=Path, default=reference_path(), help="folder for the model of --base, if it is not to ship"
    )
    parser.add_argument("--of", choices=SHIPPED, default=REFERENCE, help="which model that ships the verifier is for")
    options = parser.parse_args()
    if options.base:
        build_model(options.base, options.out)
    if options.policy:
        build_policy(options.policy, reference_path(POLICY))
    if options.verifier:
        build_verifier(options.verifier, reference_path(options.of) / "verifier")


if __name__ == "__main__":
    sys.exit(exit_code(main))
