"""What the results files of the server and of replicas say: speed, what they stand, and a problem solved through OpenAI's own client."""

from __future__ import annotations

from typing import Any

from cells import measured, missing, read, table, turns

SOLVED = "serve-gsm8k.json"
ASKED = """```python
client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
answer = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": problem}}],
    temperature={temperature},
    max_tokens={max_tokens},
    seed={seed},
    extra_body={{"trueplex": {{"paths": {paths}}}}},
)
```"""


def solved(whole: bool) -> str:
    """A GSM8K problem by many paths; ``whole`` with the request, the answer's text and every vote."""
    found = read(SOLVED)
    if found is None:
        return missing(SOLVED, "serve-gsm8k MODEL=…")
    asked, votes = found["configuration"], found["votes"]
    cores, load = found["machine"]["cores"], found["load average"][0]
    beside = "" if load <= cores + 0.5 else f", with other jobs beside it (load {load})"
    said = (
        f'{found["model"]} behind `trueplex serve`, asked through OpenAI\'s Python client ({asked["openai"]}) with `"trueplex": '
        f'{{"paths": {asked["paths"]}}}`:\n\n> {found["problem"]}\n\n{found["paths that finished"]} of {asked["paths"]} paths finished, and '
        f"{votes[0]['paths'] if votes else 0} of them say **{found['answer']}**, which is {'right' if found['right'] else 'wrong'}; "
        f"{found['usage']['completion_tokens']:,} tokens in {found['seconds']:.0f} s on {cores} CPU cores{beside}."
    )
    if not whole:
        return (
            f"A GSM8K problem: {said}{measured(found)} [The request and the answer](docs/serve.md#a-problem-of-gsm8k)."
        )
    content = f"```text\n{found['content'].strip()}\n```"
    rows = [[vote["answer"], str(vote["paths"]), f"{vote['weight']:.2f}"] for vote in votes]
    return "\n\n".join([
        ASKED.format(model=found["model"], **{name: asked[name] for name in ("temperature", "max_tokens", "seed", "paths")}),
        said[0].upper() + said[1:] + measured(found), "`answer.choices[0].message.content`:", content,
        "`answer.trueplex[\"votes\"]`:", table(["answer", "paths", "weight"], rows),
    ])  # fmt: skip


def serve_parts() -> list[str]:
    """The chapter of the server."""
    return ["## The server", *_speed(), *_load(), "## Replicas", *_replicas()]


def _speed() -> list[str]:
    found = {name: one for name, one in (read("serve.json") or {}).items() if isinstance(one, dict)}
    if not found:
        return [missing("serve.json", "serve-speed MODEL=…")]
    rows = [_speed_row(name, one) for name, one in found.items()]
    head = ["model", "requests at once", "tokens each, at most", "throughput, of `solve` in one call", "lowest and highest", "answers equal to `solve`", "first event, idle, ms"]  # fmt: skip
    told = (
        "The same requests, of mixed options, by as many clients at once and by one call of `solve`, in turns; `make serve-speed`. "
        "In bfloat16 a path differs where two tokens are nearly as likely, as it does in any other batch."
    )
    return [told + measured(*found.values()), table(head, rows)]


def _speed_row(name: str, one: dict[str, Any]) -> list[str]:
    asked, ratio = one["configuration"], one["throughput against solve"]
    return [name, str(asked["requests"]), str(asked["max_tokens"]), f"{ratio['median']:.2f}", turns(ratio),
            f"{one['equal to solve']} of {asked['requests']}",
            f"{1000 * one['seconds to the first event of an idle server, median']:.0f}"]  # fmt: skip


def _load() -> list[str]:
    found = read("serve-load.json")
    if found is None:
        return [missing("serve-load.json", "load")]
    mixed, gone, fuzz = found["mixed"], found["vanish"], found["fuzz"]
    rows = [
        [f"{mixed['clients']} clients at once, {mixed['seconds']:.0f} s, {mixed['requests']} requests",
         f"{mixed['statuses'].get('429', 0)} told to come back, {mixed['lost']} lost, {mixed['swapped']} swapped, {mixed['different from alone']} unlike those of "
         f"the idle server; memory grew by {100 * mixed['growth']:.1f} %"],
        [f"{gone['clients']} clients that vanish, {gone['that had rows']} with rows",
         f"rows are free after {gone['steps with rows after they were let go, at most']} step at most; {sum(gone['left'].values())} objects, rows or bytes are left"],
        [f"{fuzz['bodies']:,} fuzzed bodies", f"{fuzz['unfit']} answers of the wrong shape or status"],
    ]  # fmt: skip
    return ["`make load`, with the embedded model:" + measured(found), table(["what", "what came of it"], rows)]


def _replicas() -> list[str]:
    found = read("replicas.json")
    if found is None:
        return [missing("replicas.json", "replicas")]
    kills, served, rates = found["kills"], found["serve"], found["throughput"]
    rows = [
        [f"{kills['kills']} replicas killed in {kills['runs']} rollouts of {kills['traces of a run']} traces",
         f"{kills['lost']} traces lost, {kills['repeated']} repeated, {kills['other draws']} other draws than one process's"],
        [f"one of two replicas of a server killed under {served['clients']} clients",
         f"{served['wrong answers']} wrong answers; {served['asked again']} clients asked again"],
        ["rate of two replicas, of one's", f"{rates['ratio of medians']:.2f}"],
        ["rate of two processes without Ray, of one's", f"{rates['of plain processes']:.2f}"],
    ]  # fmt: skip
    said = (
        f"`make replicas`, with the embedded model, on Ray {rates['ray']}; replicas and processes have one thread each:"
    )
    return [said + measured(found), table(["what", "what came of it"], rows)]
