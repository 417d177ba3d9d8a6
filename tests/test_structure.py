"""The one direction: a folder imports itself and the folders before it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trueplex

ROOT = Path(trueplex.__file__).parent
ORDER = [
    "grading",
    "decide",
    "models",
    "data",
    "engine",
    "verify",
    "solving",
    "evals",
    "train",
    "reference",
    "report",
    "serve",
    "scale",
    "cli",
]
NO_TORCH = ("types", "errors", "files", "stamps", "checksums", "grading", "decide")
MOST_LINES, MOST_IN_FUNCTION, MOST_PARAMETERS = 400, 60, 8


def rank(module: str) -> int:
    """The place of a dotted name inside the package; modules of the root come before every folder."""
    first = module.split(".")[0]
    return ORDER.index(first) if (ROOT / first).is_dir() else -1


def imported(path: Path) -> Iterator[str]:
    """Names inside the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if names == ["trueplex"]:
            names = [f"trueplex.{alias.name}" for alias in node.names if alias.name != "__version__"]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name.removeprefix("trueplex.") for name in names if name.startswith("trueplex."))


def sources() -> Iterator[tuple[str, Path]]:
    """Every module that belongs to the order: the package's front page and `python -m` stand outside."""
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if name not in ("__init__", "__main__"):
            yield name, path


def test_folders_import_only_those_before_them() -> None:
    assert {p.name for p in ROOT.iterdir() if p.is_dir() and p.name != "__pycache__"} <= set(ORDER)
    wrong = [
        f"{name} imports {other}" for name, path in sources() for other in imported(path) if rank(other) > rank(name)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_engine_knows_neither_decisions_nor_grades() -> None:
    for name, path in sources():
        if name.startswith("engine."):
            assert not [other for other in imported(path) if other.startswith(("decide", "grading"))], name


@pytest.mark.parametrize("module", NO_TORCH)
def test_deciding_and_grading_need_no_torch(module: str) -> None:
    names = [name for name, _ in sources() if name == module or name.startswith(f"{module}.")]
    assert names
    code = "import sys, importlib\n" + "".join(
        f"importlib.import_module('trueplex.{n.removesuffix('.__init__')}')\n" for n in names
    )
    code += "print(*{m.split('.')[0] for m in sys.modules} & {'torch', 'transformers', 'peft'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stdout + done.stderr


def test_no_module_and_no_function_outgrows_a_reader() -> None:
    """Modules of at most 400 lines, functions of at most 60, and of at most 8 parameters beside self."""
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text()
        if (lines := len(text.splitlines())) > MOST_LINES:
            wrong.append(f"{path.name} has {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                if (lines := (node.end_lineno or 0) - node.lineno + 1) > MOST_IN_FUNCTION:
                    wrong.append(f"{path.name}: {node.name} has {lines} lines")
                if len([a for a in arguments if a not in ("self", "cls")]) > MOST_PARAMETERS:
                    wrong.append(f"{path.name}: {node.name} has {len(arguments)} parameters")
    assert not wrong, "\n".join(wrong)


def test_every_entry_point_ends_in_one_line() -> None:
    """`python -m trueplex.…` says what it refuses as the command line does; the grader's worker talks to its parent alone."""
    starts = [(name, text) for name, path in sources() if 'if __name__ == "__main__":' in (text := path.read_text())]
    assert len(starts) > 4
    assert [name for name, text in starts if "sys.exit(exit_code(" not in text] == ["grading.worker"]


def test_no_two_test_files_have_one_name() -> None:
    """Pytest imports them by it, so that of two in one run the second is an error."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
