"""Write a CycloneDX bill of materials of an environment; fail where a component names no licence.

python .ci/sbom.py PYTHON OUTPUT, run by an interpreter that has cyclonedx-bom; PYTHON is the environment's own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LICENCES = """
import json
from importlib.metadata import distributions
print(json.dumps({each.name: each.metadata["License"] for each in distributions() if each.metadata["License"]}))
"""


def main(python: str, output: Path) -> str | None:
    """Write it; what is wrong with it, if anything."""
    output.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", "pyproject.toml"]
    # its own check of what it has just written takes eight times as long as writing it
    command += ["--output-reproducible", "--no-validate", "--of", "JSON", "-o", str(output), python]
    subprocess.run(command, check=True)
    bill = json.loads(output.read_text())
    # -I: the environment alone, whatever PYTHONPATH says
    told = json.loads(subprocess.run([python, "-I", "-c", LICENCES], check=True, capture_output=True).stdout)
    for component in bill["components"]:
        # the tool leaves one out that is no name of SPDX's
        if not component.get("licenses") and component["name"] in told:
            component["licenses"] = [{"license": {"name": told[component["name"]].splitlines()[0]}}]
    output.write_text(json.dumps(bill, indent=1) + "\n")
    silent = [component["name"] for component in bill["components"] if not component.get("licenses")]
    print(f"sbom: {len(bill['components'])} components in {output}")
    return f"sbom: no licence is named by {', '.join(silent)}" if silent else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
