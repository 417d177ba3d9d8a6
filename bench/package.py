"""Build the wheel and the sdist, install each into a fresh environment, and run what the README says; `make package` calls this.

    python bench/package.py --out runs/package            # minutes: downloads all packages, and runs all tests from the sdist
    python bench/package.py --out runs/package --quick    # the packages of this environment, and of the tests one file

Exits with the first command that fails.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROBLEM = "Ann has 3 apples. Ann buys 4 more. How many apples are there now?"


def run(*command: str | Path, cwd: Path | None = None) -> None:
    print("$", *command, flush=True)
    outer = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL")}
    code = subprocess.run([str(c) for c in command], cwd=cwd, env=outer, check=False).returncode
    if code:
        sys.exit(f"exit code {code}: {' '.join(map(str, command))}")


def environment(folder: Path, quick: bool) -> Path:
    """A fresh environment's Python; with ``quick`` it sees the packages of this one, but for trueplex, which is editable here."""
    run(sys.executable, "-m", "venv", folder)
    if quick:
        for site in folder.glob("lib/python*/site-packages"):
            (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for all of it; emptied first")
    parser.add_argument(
        "--quick", action="store_true", help="no downloads but of the build tool, and one file of the tests"
    )
    asked = parser.parse_args()
    out: Path = asked.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    builder = environment(out / "builder", quick=False)
    run(builder, "-m", "pip", "install", "--quiet", "build")
    run(builder, "-m", "build", "--outdir", out / "dist", ROOT)
    wheel, sdist = next((out / "dist").glob("*.whl")), next((out / "dist").glob("*.tar.gz"))

    python = environment(out / "from-wheel", asked.quick)
    install = ["--no-deps"] if asked.quick else ["-c", ROOT / "constraints.txt"]
    run(python, "-m", "pip", "install", "--quiet", *install, wheel)
    run(python, "-m", "trueplex", "--version", cwd=out)
    run(python, "-m", "trueplex", "solve", PROBLEM, "--paths", "4", "--quiet", cwd=out)

    shutil.unpack_archive(sdist, out)
    source = out / sdist.name.removesuffix(".tar.gz")
    if asked.quick:
        inner = environment(source / ".venv", quick=True)
        run(inner, "-m", "pip", "install", "--quiet", "--no-deps", source)
        run("touch", source / ".venv" / ".installed")
        run("make", "demo", cwd=source)
        run(inner, "-m", "pytest", "-q", "tests/decide/test_simulate.py", cwd=source)
    else:
        run("make", "demo", cwd=source)
        run("make", "test", cwd=source)
    print(
        f"{wheel.name} ({wheel.stat().st_size:,} bytes) and {sdist.name} ({sdist.stat().st_size:,} bytes) install and run"
    )


if __name__ == "__main__":
    main()
