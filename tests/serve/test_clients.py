"""Other people's clients, from an environment of their own: TRUEPLEX_TEST_CLIENTS names its interpreter (litellm, lm_eval)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from served import PROBLEM, Served

PYTHON = os.environ.get("TRUEPLEX_TEST_CLIENTS", "")
pytestmark = pytest.mark.slow
GIVEN = pytest.mark.skipif(not PYTHON, reason="TRUEPLEX_TEST_CLIENTS is not set")
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


@GIVEN
def test_litellm(served: Served) -> None:
    lines = dict(line.split(" ", 1) for line in run(PYTHON, "-c", LITELLM, served.url, PROBLEM).splitlines() if line)
    assert "boxed" in lines["streamed"] and lines["whole"].startswith(lines["streamed"])


TASK = """
task: trueplex_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: 80, temperature: 1}}
filter_list: [{{name: boxed, filter: [{{function: regex, regex_pattern: "boxed.(-?[0-9]+)"}}, {{function: take_first}}]}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@GIVEN
def test_lm_eval(served: Served, tmp_path: Path) -> None:
    """Its own command line, on a task of our own: every answer is voted on by the server's four paths."""
    rows = [{"question": PROBLEM.replace("3", str(n)), "answer": str(n + 4)} for n in (3, 5, 8)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.yaml").write_text(TASK.format(data=tmp_path / "sums.jsonl"))
    asked = f"model=reference,base_url={served.url}/v1/chat/completions,num_concurrent=2,max_retries=1"
    run(str(Path(PYTHON).parent / "lm_eval"), "run", "--model", "local-chat-completions", "--model_args", asked, "--tasks", "trueplex_sums",
        "--include_path", str(tmp_path), "--apply_chat_template", "--output_path", str(tmp_path / "out"))  # fmt: skip
    (results,) = (tmp_path / "out").rglob("results_*.json")
    figures = json.loads(results.read_text())["results"]["trueplex_sums"]
    assert figures["exact_match,boxed"] >= 1 / 3, figures


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here")
def test_curl(served: Served) -> None:
    body = f'{{"messages": [{{"role": "user", "content": "{PROBLEM}"}}], "max_tokens": 60}}'
    told = run("curl", "-sS", f"{served.url}/v1/chat/completions", "-H", "content-type: application/json", "-d", body)
    assert '"object":"chat.completion"' in told
