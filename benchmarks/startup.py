"""How long the program takes to answer, beside the import of Lightning's command line alone.

    python -m benchmarks.startup [ROUNDS]

Each command is a process of its own; what counts is its CPU time from the start of Python to its end, as the system
accounts for it. The commands take turns, so that a machine whose speed drifts is the same for all of them.
"""

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIGHTNING = "import lightning.pytorch.cli"
COMMANDS: dict[str, list[str]] = {
    f"python -c '{LIGHTNING}'": ["-c", LIGHTNING],
    "--version": ["main.py", "--version"],
    "configs": ["main.py", "configs"],
    "--help": ["main.py", "--help"],
    "fit --help": ["main.py", "fit", "--help"],
    "fit --config FILE --model.lrr 1": ["main.py", "fit", "--config", "configs/eomt_lora.yaml", "--model.lrr", "1"],
    "fit --config MISSING": ["main.py", "fit", "--config", "configs/missing.yaml"],
    "test --ckpt_path MISSING": ["main.py", "test", "--ckpt_path", "missing"],
}


def seconds(arguments: list[str]) -> float:
    """Return the CPU time of a process, user and system."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    # users' Pythons keep what they compile
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Print a table of commands, their seconds, and the ratio to the first of the same round."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    # the first reads from disk, and compiles
    for arguments in COMMANDS.values():
        seconds(arguments)
    measured: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            measured[name].append(seconds(arguments))
    base = next(iter(measured.values()))
    print(f"Medians of {rounds} rounds, CPU seconds")
    print("| command | s, median (min-max) | ratio, median (min-max) |\n|---|---|---|")
    for name, found in measured.items():
        ratios = [mine / other for mine, other in zip(found, base, strict=True)]
        columns = (
            f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})" for values in (found, ratios)
        )
        print(f"| `{name}` | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
