"""Run the slow tests and write what came of them: `make test-slow` calls this.

    python bench/slow_tests.py --out results/test-slow.json -- [options of pytest]

The file has version, passed, failed, skipped and seconds, and the names of what failed. Exits as pytest does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from trueplex import __version__
from trueplex.files import write_json


def counts(report: Path) -> dict[str, Any]:
    """The figures of a JUnit report; an error while a test is set up or torn down counts as a failure."""
    suite = ET.parse(report).getroot().find("testsuite")
    if suite is None:
        raise ValueError(f"{report} has no test suite")
    total, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
    failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
    names = [
        f"{case.attrib['classname']}.{case.attrib['name']}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return {
        "version": __version__, "passed": total - failed - skipped, "failed": failed, "skipped": skipped,
        "seconds": round(float(suite.attrib["time"])), "failures": names,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    parser.add_argument("pytest", nargs="*", help="options of pytest, after --")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = subprocess.run(
            [sys.executable, "-m", "pytest", "-m", "slow", f"--junitxml={report}", *asked.pytest], check=False
        ).returncode
        if report.exists():
            write_json(asked.out, counts(report))
    sys.exit(code)


if __name__ == "__main__":
    main()
