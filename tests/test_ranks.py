"""The one direction: a module imports lower ranks only. A new module must be given its rank here."""

from __future__ import annotations

import ast
from pathlib import Path

import trueplex

RANKS = {
    0: "answers_worker attention_probe engine.cache errors evals.metrics progress reference.slips",
    1: "answers_pool attention budget engine.ending engine.sampling evals.budget fitting hub reference.chain reference.countdown reference.remainder report.read train.grpo train.labels train.sharded train.watch types verify.forms",
    2: "alarms answers backbone calibration engine.rows engine.thinking inputs reference.tasks report.figures report.tables store train.memory verify.stored",
    3: "answers_audit cli_options engine.history engine.prefill prompt reference.text report.page selfcheck suites train.policy_batches train.policy_recipe verify.branches verify.one_token verify.transcript vote",
    4: "engine.live jobs.grading jobs.reporting loading reference.pretrain rules train.policy_update train.policy_watch train.policy_weights waves",
    5: "engine.engine policy reference.build show.pieces train.policy_journal verify.confidence verify.probe verify.reading",
    6: "evals.samples settings show.page simulate train.batches verify.generative verify.reward",
    7: "evals.curves evals.methods solving train.calibrate",
    8: "evals.summary pipeline train.rewards",
    9: "evals.quality race scorers train.policy_sampling train.rollouts train.values",
    10: "api evals.run session show.text train.policy train.verifier",
    11: "jobs.calibrating jobs.evaluating jobs.policy jobs.sampling show.command train.reward",
    12: "cli_evals jobs.training",
    13: "cli_train",
    14: "cli",
}
RANK = {name: rank for rank, names in RANKS.items() for name in names.split()}
ROOT = Path(trueplex.__file__).parent


def modules() -> dict[str, Path]:
    found = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in ROOT.rglob("*.py")}
    return {name: path for name, path in found.items() if not name.endswith("__init__")}


def imported(path: Path) -> set[str]:
    """trueplex modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "trueplex":
            base = (node.module or "").removeprefix("trueplex").lstrip(".")
            for alias in (a for a in node.names if a.name != "__version__"):  # the package's own, of no module
                whole = f"{base}.{alias.name}".lstrip(".")
                names.add(whole if whole in RANK else base)
        elif isinstance(node, ast.Import):
            names |= {a.name.removeprefix("trueplex.") for a in node.names if a.name.startswith("trueplex.")}
    return names


def test_every_module_has_a_rank_and_imports_lower_ones_only() -> None:
    files = modules()
    assert set(files) == set(RANK)
    wrong = [
        f"{name} (r{RANK[name]}) imports {other} (r{RANK.get(other)})"
        for name, path in files.items()
        for other in imported(path)
        if RANK.get(other, 99) >= RANK[name]
    ]
    assert not wrong, "\n".join(wrong)


def test_deciding_needs_no_torch() -> None:
    for name in ("policy", "vote", "types", "errors", "answers", "answers_pool"):
        roots = {
            (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name) or ""
            for node in ast.walk(ast.parse((ROOT / f"{name}.py").read_text()))
            if isinstance(node, (ast.Import, ast.ImportFrom))
        }
        assert not any(r.split(".")[0] in ("torch", "transformers") for r in roots), name
