"""SmolLM2 behind the server, in float32: a model without thinking tags, and a vocabulary of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

import trueplex
from models.test_real import smol  # noqa: F401  # a fixture
from served import PROBLEM, serving
from trueplex.models.backbone import Backbone
from trueplex.serve.options import ServerOptions

pytestmark = pytest.mark.slow  # reads a real model
OPTIONS = {"paths": 3, "max_tokens": 24, "temperature": 0.7}
TEXTS = [PROBLEM, "What is 12 + 30?", "Name a colour."]


def test_law_14_clients_of_a_real_model_get_what_solve_gives(smol: Backbone) -> None:  # noqa: F811
    own = [trueplex.solve(smol, text, seed=seed, **OPTIONS) for seed, text in enumerate(TEXTS)]
    bodies = [{"problem": text, "seed": seed, **OPTIONS} for seed, text in enumerate(TEXTS)]
    with serving(smol, ServerOptions(name="smol")) as served, ThreadPoolExecutor(len(TEXTS)) as threads:
        told = list(threads.map(lambda body: served.post("/v1/solve", body).json(), bodies))
        message = served.client.chat.completions.create(
            model="smol", messages=[{"role": "user", "content": TEXTS[1]}], max_tokens=24, extra_body={"trueplex": {"paths": 1}}
        ).choices[0].message  # fmt: skip
    assert [[p["text"] for p in one["paths"]] for one in told] == [[t.text for t in s.traces] for s in own]
    assert message.content and message.reasoning is None and "<|im_end|>" not in message.content
