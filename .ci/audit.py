"""Ask a public list of vulnerabilities about every pin; say what was asked and what was not.

python .ci/audit.py REQUIREMENTS [pip-audit's own options], run by an interpreter that has pip-audit. Exit code 1 where
one is known. pip-audit alone says "No known vulnerabilities found" also where the list knows not a single package.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def verdict(dependencies: list[dict[str, Any]]) -> tuple[list[str], int]:
    """Lines to print and the exit code, of the report's dependencies; none at all where no answer came."""
    asked = [each for each in dependencies if "skip_reason" not in each]
    if not asked:
        return ["audit: not checked: no answer"], 0
    lines = [
        f"audit: {each['name']} {each['version']}: {vulnerability['id']}, mended in "
        f"{', '.join(vulnerability['fix_versions']) or 'no version'}"
        for each in asked
        for vulnerability in each["vulns"]
    ]
    code = int(bool(lines))
    lines.append(f"audit: {len(asked)} of {len(dependencies)} packages checked")
    lines += [f"audit: not checked: {each['name']}" for each in dependencies if "skip_reason" in each]
    return lines, code


def main(requirements: str, *options: str) -> int:
    """Ask, and print the verdict."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip_audit", "-r", requirements, "--no-deps", "--disable-pip"]
        command += ["--progress-spinner", "off", "-f", "json", "-o", str(report), *options]
        ended = subprocess.run(command, capture_output=True, text=True)
        written = report.exists() and report.stat().st_size > 0
        dependencies = json.loads(report.read_text())["dependencies"] if written else []
    if not dependencies:
        print(*ended.stderr.strip().splitlines()[-1:], file=sys.stderr)
    lines, code = verdict(dependencies)
    print(*lines, sep="\n")
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
