"""Other people's clients, from an environment of their own: TRUEPLEX_TEST_CLIENTS names its interpreter (litellm, lm_eval)."""

from __future__ import annotations

import os
import subprocess

import pytest

from served import PROBLEM, Served

PYTHON = os.environ.get("TRUEPLEX_TEST_CLIENTS", "")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PYTHON, reason="TRUEPLEX_TEST_CLIENTS is not set")]
LITELLM = """
import sys, litellm
ask = dict(model="openai/reference", api_base=sys.argv[1] + "/v1", api_key="none", messages=[{"role": "user", "content": sys.argv[2]}],
           max_tokens=80, extra_body={"trueplex": {"paths": 2}})
whole = litellm.completion(**ask)
print("whole", whole.choices[0].message.content, whole.usage.completion_tokens)
print("streamed", "".join(c.choices[0].delta.content or "" for c in litellm.completion(stream=True, **ask) if c.choices))
"""


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_litellm(served: Served) -> None:
    lines = dict(line.split(" ", 1) for line in run(PYTHON, "-c", LITELLM, served.url, PROBLEM).splitlines() if line)
    assert "boxed" in lines["streamed"] and lines["whole"].startswith(lines["streamed"])


LM_EVAL = """
import sys
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalChatCompletion
model = LocalChatCompletion(model="reference", base_url=sys.argv[1] + "/v1/chat/completions", num_concurrent=2, max_retries=1, tokenized_requests=False)
texts = [sys.argv[2], sys.argv[2].replace("3", "5")]
from lm_eval.models.api_models import JsonChatStr
import json
asked = [Instance("generate_until", {}, (JsonChatStr(json.dumps([{"role": "user", "content": t}])), {"until": ["\\n\\n"], "max_gen_toks": 80}), n) for n, t in enumerate(texts)]
print(model.generate_until(asked))
"""


def test_lm_eval(served: Served) -> None:
    assert "boxed" in run(PYTHON, "-c", LM_EVAL, served.url, PROBLEM)


def test_curl(served: Served) -> None:
    body = f'{{"messages": [{{"role": "user", "content": "{PROBLEM}"}}], "max_tokens": 60}}'
    told = run("curl", "-sS", f"{served.url}/v1/chat/completions", "-H", "content-type: application/json", "-d", body)
    assert '"object":"chat.completion"' in told
