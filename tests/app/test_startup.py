"""What a command loads before it answers: no more than the answer needs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LARGE = {"torch", "numpy", "lightning", "transformers", "timm"}
REPORT = """
import atexit, gc, json, sys
from eomt.cli import main

def report():
    found = {"modules": list(sys.modules), "enabled": gc.isenabled(), "frozen": gc.get_freeze_count()}
    print("REPORT" + json.dumps(found))

try:
    CALL
except SystemExit:
    report()
"""


def answer(call: str, *args: str, **variables: str) -> tuple[dict[str, Any], str]:
    """What a process knows at its end that ran `call` with arguments, and what it printed on stderr."""
    program = [sys.executable, "-c", REPORT.replace("CALL", call), *args]
    found = subprocess.run(program, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=True)
    return json.loads(found.stdout.rpartition("REPORT")[2]), found.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("fit", "--config", "configs/no_such.yaml"), "error: configs/no_such.yaml: cannot be read"),
        (("fit", "--config", "no_such"), "error: no_such: cannot be read"),
        (("configs", "copy", "no_such"), "error: configs copy: no_such is none"),
        ((), "error: command: not given"),
        (("test", "--ckpt_path", "no_such"), "error: ckpt_path: no_such does not exist"),
        (("fit", "--trainer", "null", "--trainer.max_steps", "1"), "error: trainer: null, and --trainer.max_steps"),
    ],
)
def test_a_mistake_that_needs_no_library_loads_none(args: tuple[str, ...], message: str) -> None:
    found, error = answer("main()", *args)
    assert error.startswith(message)
    assert not LARGE & set(found["modules"])


def test_a_misspelled_field_loads_no_timm_and_no_logger() -> None:
    found, error = answer("main()", "fit", "--config", "configs/eomt_lora.yaml", "--model.lrr", "1")
    assert error == "error: model.lrr: no such field; did you mean lr?\n"
    assert not {"timm", "wandb", "tensorboard", "peft", "sklearn"} & set(found["modules"])
    # later walks leave out what was loaded
    assert found["enabled"]
    assert found["frozen"] > 100_000


def test_the_collector_of_whoever_calls_from_python_is_left_alone() -> None:
    found, _ = answer('main(["fit", "--config", "configs/eomt_lora.yaml", "--model.lrr", "1"])')
    assert found["enabled"]
    assert found["frozen"] == 0


def test_a_process_that_a_launcher_numbered_says_its_number() -> None:
    _, error = answer("main()", "fit", "--config", "configs/no_such.yaml", LOCAL_RANK="3")
    assert error.startswith("error (rank 3): configs/no_such.yaml")


@pytest.mark.parametrize("args", [("--version",), ("--help",), ("configs",), ("configs", "copy", "--all", "FOLDER")])
def test_what_needs_no_library_loads_none(args: tuple[str, ...], tmp_path: Path) -> None:
    # it returns, or ends the process with 0
    found, error = answer("main(); sys.exit()", *(str(tmp_path) if arg == "FOLDER" else arg for arg in args))
    assert not error
    assert not LARGE & set(found["modules"])
