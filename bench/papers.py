"""The papers' own experiments, for those who have the machines: every command, what it costs, and the run.

    python bench/papers.py otv --model Qwen/Qwen3-4B --dry                                One-Token Verification, arXiv 2603.01025
    python bench/papers.py multiplex --model deepseek-ai/DeepSeek-R1-Distill-Qwen-7B --dry   Multiplex Thinking, arXiv 2601.08808

`make paper-otv MODEL=…` and `make paper-multiplex MODEL=…` are the same, with DRY=1 for the estimate alone. One command follows
another, and each is resumed where it was by running the same again. What the papers give is set as they give it; what they do
not give, or is not known here, is an option, and the estimate says which.

The estimate: a forward pass takes 2 operations a parameter and token, a forward and backward pass 6, and 8 where activations are
recomputed; a trace has on average a share (`--mean`) of its limit of tokens. Hours are those operations over the devices' peak
(`--peak`, in dense bfloat16 TFLOP/s; an H100's is 989), of which decoding reaches a share (`--decoding`) and passes over whole
texts another (`--passes`). Attention to long texts is left out: above some 10,000 tokens of an 8B it adds about a tenth.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

PROBLEMS = {"aime24": 30, "aime25": 30, "amc23": 83, "math500": 500, "minerva": 272, "olympiadbench": 675,
            "dapo-math-17k": 17398, "agentica-org/DeepScaleR-Preview-Dataset": 40315}  # fmt: skip
SUITES = ("aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench")  # the six of Multiplex Thinking
FORWARD, LEARNING, RECOMPUTED = 2, 6, 8  # operations a parameter and token
READERS = ("orm:acemath:nvidia/AceMath-7B-RM", "prm:versaprm:UW-Madison-Lee-Lab/VersaPRM",
           "prm:math-shepherd:peiyi9979/math-shepherd-mistral-7b-prm")  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A command: what it is for, its arguments, and what it costs.

    Attributes:
        processes: how it uses several devices: ``replicas`` by Ray, ``torchrun``, ``fsdp`` (all weights learn), or ``one`` process.
        decoded: tokens that are sampled, at 2 operations a parameter.
        read: operations a parameter of passes over whole texts.
    """

    what: str
    arguments: tuple[str, ...]
    processes: str = "one"
    decoded: float = 0.0
    read: float = 0.0

    def command(self, devices: int) -> list[str]:
        if self.processes == "torchrun" and devices > 1:
            return ["torchrun", "--standalone", "--nproc-per-node", str(devices), "-m", "trueplex", *self.arguments]
        if self.processes == "fsdp" and devices > 1:
            return [
                "accelerate",
                "launch",
                "--use_fsdp",
                "--fsdp_version",
                "2",
                "--num_processes",
                str(devices),
                "-m",
                "trueplex",
                *self.arguments,
            ]
        replicas = ["--ray", "--replicas", str(devices)] if self.processes == "replicas" and devices > 1 else []
        return ["trueplex", *self.arguments, *replicas]


def options(**given: object) -> list[str]:
    """`name=value` as `--name value`; a list gives the option once for each."""
    out = []
    for name, value in given.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            out += [f"--{name.replace('_', '-')}", str(one)]
    return out


def otv(given: argparse.Namespace) -> list[Step]:
    """Rollouts of DAPO-Math-17k, a verifier from them, Best-of-128 and its efficient forms on AIME, rivals on the same traces."""
    runs, limit, mean = given.runs, given.max_tokens or 32768, given.mean
    samples, paths = given.samples or 8, given.paths or 128
    thinking = options(model=given.model, thinking="discrete", temperature=0.6, top_p=0.95, top_k=20, max_tokens=limit)
    learned, tested = PROBLEMS["dapo-math-17k"] * samples * limit * mean, 60 * paths * limit * mean
    verifier = f"{runs}/verifier"
    methods = ("majority", "weighted", "best", "best~half:300", "weighted~half:300", "weighted~half:300/4", "weighted~auto",
               "weighted:deepconf:tail@2048", "weighted:deepconf:bottom@2048", "weighted:deepconf:lowest@2048",
               "weighted:deepconf:lowest@2048~deepconf:low@2048/16")  # fmt: skip
    scorers = (verifier, "deepconf:tail@2048", f"genrm:{given.model}", *READERS)
    return [
        Step(f"rollouts: {samples} of each problem (ours)", ("rollout", *thinking, *options(data="dapo-math-17k", samples=samples, out=f"{runs}/rollouts")),
             "replicas", learned),
        Step("verifier: ramp labels, squared error, rank 16", ("train", "verifier", *options(model=given.model, data=f"{runs}/rollouts", rank=16, positions=32, labels="ramp", loss="mse", epochs=1, out=verifier)),
             "torchrun", read=learned * FORWARD + learned / (limit * mean) * 32 * LEARNING),
        Step(f"Best-of-{paths} and HALF 300", ("eval", *thinking, *options(suite=["aime24", "aime25"], samples=paths, verifier=verifier, probe_every=100, methods=",".join(methods), out=f"{runs}/aime")),
             "replicas", tested * 1.01),
        Step("rivals on the same traces", ("eval-verifier", f"{runs}/aime/aime24", f"{runs}/aime/aime25", *options(model=given.model, scorers=",".join(scorers), out=f"{runs}/rivals")),
             read=tested * FORWARD * (1 + len(READERS) + 10)),
        Step("report", ("report", f"{runs}/aime", f"{runs}/rivals", *options(out=f"{runs}/report.html"))),
    ]  # fmt: skip


def multiplex(given: argparse.Namespace) -> list[Step]:
    """Untrained modes, then GRPO at K = 1 and K = 3 (2, 6 and mean merging as ablations), each on the six suites."""
    runs, limit, mean, data = (
        given.runs,
        given.max_tokens or 4096,
        given.mean,
        "agentica-org/DeepScaleR-Preview-Dataset",
    )
    samples = given.paths or 64
    sampling = options(temperature=1.0, top_p=1.0, max_tokens=limit)
    ways = {"discrete": options(thinking="discrete"), "stochastic-soft": options(thinking="stochastic-soft"), "multiplex": options(width=3)}  # fmt: skip
    tested = sum(PROBLEMS[suite] for suite in SUITES) * samples * limit * mean
    trained = {"k1": ways["discrete"], "k3": ways["multiplex"], "k2": options(width=2), "k6": options(width=6), "k3mean": options(width=3, merge="mean")}  # fmt: skip
    rollouts = 300 * 128 * 8 * limit * mean

    def test(name: str, model: str, way: Sequence[str]) -> Step:
        return Step(f"test: {name}", ("eval", *options(model=model), *way, *sampling, *options(suite=list(SUITES), samples=samples, verifier="none", methods="majority", out=f"{runs}/{name}")),
                    "replicas", tested)  # fmt: skip

    steps = [test(f"untrained-{name}", given.model, way) for name, way in ways.items()]
    for name in ("k1", "k3", *(("k2", "k6", "k3mean") if given.all else ())):
        recipe = options(data=data, validation="aime24", problems=PROBLEMS[data], steps=300, prompts=128, samples=8, lr="1e-6", every=25, val_samples=4, micro_tokens=16384)  # fmt: skip
        steps += [
            Step(f"GRPO: {name}, 300 steps", ("train", "policy", *options(model=given.model), *trained[name], *sampling, *recipe, "--bf16", "--gradient-checkpointing", *options(out=f"{runs}/{name}")),
                 "fsdp", rollouts, rollouts * RECOMPUTED),
            test(f"{name}-test", f"{runs}/{name}/model", trained[name]),
        ]  # fmt: skip
    return steps


PAPERS = {"otv": otv, "multiplex": multiplex}


def billions(name: str) -> float | None:
    """The parameters that a model's name tells: Qwen3-4B has 4 billion."""
    found = re.search(r"(\d+(?:\.\d+)?)[bB](?![a-zA-Z])", Path(name).name)
    return float(found[1]) if found else None


def hours(step: Step, given: argparse.Namespace, parameters: float) -> float:
    """Hours on all devices; what runs as one process uses one of them."""
    devices = given.devices if step.processes != "one" else 1
    seconds = step.decoded * FORWARD / given.decoding + step.read / given.passes
    return seconds * parameters * 1e9 / (given.peak * 1e12 * devices) / 3600


def estimate(steps: Sequence[Step], given: argparse.Namespace, parameters: float) -> Table:
    table = Table("command", "G tokens sampled", "EFLOP", "hours",
                  title=f"{given.model}, {parameters:g} billion parameters, {given.devices} devices of {given.peak:g} TFLOP/s, of which decoding "
                        f"reaches {100 * given.decoding:g} % and passes over texts {100 * given.passes:g} %; traces of {100 * given.mean:g} % of their limit")  # fmt: skip
    total = 0.0
    for step in steps:
        took = hours(step, given, parameters)
        total += took
        work = (step.decoded * FORWARD + step.read) * parameters / 1e9
        table.add_row(step.what, f"{step.decoded / 1e9:.2f}", f"{work:.2f}", f"{took:.1f}")
    table.add_row("all", "", "", f"{total:.1f}")
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paper", choices=PAPERS)
    parser.add_argument("--model", required=True, help="otv: Qwen/Qwen3-4B, Qwen/Qwen3-8B, DAPO-Qwen-32B; multiplex: DeepSeek-R1-Distill-Qwen-1.5B, 7B")  # fmt: skip
    parser.add_argument("--runs", help="folder of all that is made")
    parser.add_argument("--dry", action="store_true", help="print every command and the estimate, and run nothing")
    parser.add_argument("--all", action="store_true", help="multiplex: also widths 2 and 6, and merging by means")
    parser.add_argument("--samples", type=int, help="otv: rollouts of each problem; 8")
    parser.add_argument(
        "--paths", type=int, help="traces of each test problem; 128, multiplex 64 (1024 in its figures)"
    )
    parser.add_argument("--max-tokens", type=int, help="otv 32,768 (ours), multiplex 4,096 (the paper's)")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--peak", type=float, default=989.0)
    parser.add_argument("--decoding", type=float, default=0.05)
    parser.add_argument("--passes", type=float, default=0.35)
    parser.add_argument("--mean", type=float, default=0.5)
    parser.add_argument("--parameters", type=float, help="billions, where the model's name does not tell")
    given = parser.parse_args(arguments)
    given.runs = given.runs or f"runs/paper-{given.paper}/{Path(given.model).name}"
    parameters = given.parameters or billions(given.model)
    if parameters is None:
        parser.error(f"how large {given.model} is, is not in its name. Try: --parameters BILLIONS")
    steps = PAPERS[given.paper](given)
    Console(width=160).print(estimate(steps, given, parameters))
    for step in steps:
        command = step.command(given.devices)
        print(shlex.join(command), flush=True)
        if not given.dry and (code := subprocess.run(command, check=False).returncode):
            sys.exit(f"this command ended with code {code}. Try: its message above, then the same again")


if __name__ == "__main__":
    main()
