"""A few steps of every trainer on the embedded model, as plain figures that training must go on giving.

    python tests/train/trajectories.py     # writes golden.json anew, which changes what the tests hold training to

The verifier and the reward model learn from traces of random tokens; the policy learns from its own rollouts, with a
reward that any token stream has.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.models.load import load
from trueplex.models.prompt import make_prompt
from trueplex.train.common.batches import Labelled
from trueplex.train.common.memory import OrderedTrainer
from trueplex.train.grpo.recipe import PolicyRecipe
from trueplex.train.grpo.train import train_policy
from trueplex.train.reward import RewardRecipe, train_reward
from trueplex.train.verifier import Recipe, train_verifier
from trueplex.types import Problem, Steps

GOLDEN = Path(__file__).with_name("golden.json")
ENDING = Ending(24, think_tokens=16)
WAYS = {"policy-k1": Thinking("discrete", ending=ENDING), "policy-k3": Thinking("multiplex", 3, ending=ENDING)}
TRAJECTORIES = ("verifier", "reward", *WAYS)
PROBLEMS = [Problem(f"Start with {i}. Add {i + 2}. What is the result?", f"a/{i}", (str(2 * i + 2),)) for i in range(4)]


def even(prompts: list[str], completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """A reward of TRL's signature: the share of even ids."""
    return [float(np.mean([i % 2 == 0 for i in ids])) for ids in completion_ids]


def labelled(backbone: Any) -> list[Labelled]:
    """Sixteen traces of 6 to 21 random tokens of four problems, half of them right."""
    rng, traces = np.random.default_rng(0), []
    for number in range(16):
        length, problem = 6 + number, PROBLEMS[number % 4]
        ones = np.ones((length, 1), dtype=np.float32)
        steps = Steps(rng.integers(9, 200, (length, 1)).astype(np.int32), ones, ones, ones[:, 0], ones[:, 0])
        prompt = make_prompt(problem, backbone).ids
        traces.append(Labelled(prompt, steps, number % 8 < 4, problem.key, problem.text))
    return traces


def figures(name: str, out: Path) -> list[dict[str, float]]:
    """What each step of a trainer came to."""
    torch.manual_seed(0)
    backbone = load("reference", "cpu", torch.float32)
    if name in WAYS:
        recipe = PolicyRecipe(
            WAYS[name], steps=3, prompts=2, samples=4, lr=2e-4, every=9, kl=0.05, rank=4, epochs=2,
            rewards=("trajectories:even",),
        )  # fmt: skip
        train_policy(backbone, PROBLEMS, PROBLEMS[:1], recipe, out)
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return [{k: row[k] for k in ("loss", "gradient", "reward", "tokens", "drift", "kl")} for row in rows]
    losses: list[dict[str, float]] = []
    own = OrderedTrainer.training_step

    def noted(self: OrderedTrainer, *arguments: Any) -> torch.Tensor:
        loss = own(self, *arguments)
        losses.append({"loss": loss.item()})
        return loss

    OrderedTrainer.training_step = noted  # type: ignore[method-assign]
    traces = labelled(backbone)
    try:
        if name == "verifier":
            train_verifier(
                backbone, traces, traces, Recipe(4, (), 4, 4, 1.0, 1e-2, every=9, ranking=0.5, standardise=False), out
            )
        else:
            train_reward(backbone, traces, traces, RewardRecipe("outcome", 4, 4, 1.0, 1e-2, every=9), out)
    finally:
        OrderedTrainer.training_step = own  # type: ignore[method-assign]
    return losses


if __name__ == "__main__":
    sys.modules["trajectories"] = sys.modules["__main__"]
    with tempfile.TemporaryDirectory() as folder:
        found = {name: figures(name, Path(folder) / name) for name in TRAJECTORIES}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
