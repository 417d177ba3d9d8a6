"""A problem solved along many paths through OpenAI's own client, as docs/serve.md shows it.

python bench/transcript.py --model Qwen/Qwen2.5-Coder-0.5B-Instruct --data gsm8k --number 1 --out results/serve-gsm8k.json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import openai

from server import started
from trueplex.data.suites import problems_of
from trueplex.evals.run import machine
from trueplex.files import write_json
from trueplex.grading.answers import grade


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", default="gsm8k", help="a suite or a file of problems")
    parser.add_argument("--number", type=int, default=1, help="which of them, from 1")
    parser.add_argument("--paths", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=320)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    problem = problems_of(options.data, None, options.number, 0, default_split="test")[options.number - 1]
    name = Path(options.model).name
    with started(options.model, "--served-name", name) as (url, _):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=3600, max_retries=0)
        began = time.perf_counter()
        answer = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": problem.text}], temperature=options.temperature,
            max_tokens=options.max_tokens, seed=options.seed, extra_body={"trueplex": {"paths": options.paths}},
        )  # fmt: skip
        seconds = time.perf_counter() - began
    told: dict[str, Any] = answer.trueplex  # type: ignore[attr-defined]
    found = {
        "configuration": {**{k: v for k, v in vars(options).items() if k != "out"}, "model": name, "data": Path(options.data).name, "openai": openai.__version__}, "machine": machine(),
        "model": answer.model, "problem": problem.text, "content": answer.choices[0].message.content, "answer": told["answer"],
        "right": grade(told["answer"], problem.answers or ()).correct, "agreement": told["agreement"], "votes": told["votes"],
        "paths that finished": sum(path["status"] == "finished" for path in told["paths"]),
        "usage": answer.usage.model_dump(exclude_none=True) if answer.usage else None, "seconds": round(seconds, 1),
        "load average": [round(one, 1) for one in os.getloadavg()],
    }  # fmt: skip
    write_json(options.out, found, indent=1)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
