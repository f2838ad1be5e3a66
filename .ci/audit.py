"""Look pinned packages up in the database of known weaknesses; where none answers, say so and pass."""

import json
import subprocess
import sys
from pathlib import Path

PINNED = Path(__file__).parents[1] / "constraints.txt"
# all versions are given, so nothing is resolved or installed
COMMAND = [*("pip_audit", "--requirement", str(PINNED), "--no-deps", "--disable-pip", "--progress-spinner", "off")]
SECONDS = 60


def main() -> None:
    """Print one line for each package with a weakness, and exit with 1 if there is one."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", *COMMAND, "--format", "json", "--timeout", "5"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        packages = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError):
        packages = []
    # a mirror of the index knows names and no weaknesses
    looked_up = [package for package in packages if "vulns" in package]
    if not looked_up:
        print("pip-audit: not checked, no database of weaknesses can be reached")
        return
    weak = [package for package in looked_up if package["vulns"]]
    for package in weak:
        names = ", ".join(found["id"] for found in package["vulns"])
        print(f"{package['name']} {package['version']}: {names}; pin a version without in constraints.txt")
    print(f"pip-audit: {len(weak)} of {len(looked_up)} packages have known weaknesses ({len(packages)} are pinned)")
    sys.exit(bool(weak))


if __name__ == "__main__":
    main()
