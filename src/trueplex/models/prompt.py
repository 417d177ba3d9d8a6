"""Problem → Prompt: the model's own chat template, up to where thinking opens."""

from __future__ import annotations

from trueplex.errors import InputError
from trueplex.models.backbone import Backbone
from trueplex.types import Problem, Prompt


def make_prompt(problem: Problem, backbone: Backbone) -> Prompt:
    """Render the problem and the model's instruction as one user turn, ready to be answered.

    Raises:
        InputError: the prompt leaves no room for a thought within the model's positions.
    """
    text = problem.text + backbone.instruction
    if backbone.tokenizer.chat_template:
        rendered = backbone.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
        )
        ids = backbone.tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"]
    else:
        rendered = text + "\n"
        ids = backbone.tokenizer(rendered, verbose=False)["input_ids"]
    if len(ids) + 2 > backbone.max_positions:
        raise InputError(
            f"the problem is {len(ids)} tokens long and the model holds {backbone.max_positions} positions. "
            "Try: shorten it or choose a model with a longer context"
        )
    return Prompt(problem, tuple(ids), rendered)
