"""The one direction: a module imports lower ranks only. A new module must be given its rank here."""

from __future__ import annotations

import ast
from pathlib import Path

import trueplex

RANKS = {
    0: "errors",
    1: "types",
    2: "attention answers_pool answers_worker engine.cache engine.sampling engine.ending policy store inputs evals.metrics train.labels train.grpo reference.slips",
    3: "answers backbone engine.thinking reference.chain reference.countdown reference.remainder",
    4: "cli_options engine.history engine.prefill prompt vote verify.one_token reference.tasks",
    5: "engine.live settings reference.text train.policy_batches train.policy_recipe",
    6: "engine.engine reference.pretrain reference.build train.policy_weights train.watch",
    7: "verify.probe verify.confidence train.policy_journal train.policy_update",
    8: "pipeline progress train.batches",
    9: "scorers race show.pieces train.rollouts train.verifier train.rewards train.policy_sampling evals.summary",
    10: "api train.policy evals.quality evals.run show.text show.page",
    11: "session",
    12: "jobs.sampling jobs.training show.command",
    13: "jobs.evaluating jobs.policy",
    14: "cli_evals cli_train",
    15: "cli",
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
            for alias in node.names:
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
