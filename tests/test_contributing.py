"""CONTRIBUTING's task is added as it says: its four files are taken from the page, and its commands are run."""

import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eomt.cli import main
from tests.documents import CONTRIBUTING, ROOT

# a numbered step ends with the name of a file; its content follows
STEP = re.compile(r"^\d\. [^\n]*`(brightness/[\w.]+)`:\n\n```(?:python|yaml)\n(.*?)```", re.MULTILINE | re.DOTALL)
CONSTANT = 0.15
"""Mean absolute error of the best constant: values are uniform between 0.2 and 0.8."""


def section(title: str) -> str:
    """Return the text below a heading of CONTRIBUTING."""
    return CONTRIBUTING.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the four files of the steps, from which the program runs."""
    folder = tmp_path_factory.mktemp("clone")
    for name, text in STEP.findall(section("Add a task")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        # its writer may have a folder of that name in the clone, too
        for name in [name for name in sys.modules if name.partition(".")[0] == "brightness"]:
            patch.delitem(sys.modules, name)
        yield folder


def test_the_steps_make_a_network_a_task_a_datamodule_and_a_config(folder: Path) -> None:
    files = {path.name for path in (folder / "brightness").glob("*.*")}
    assert files == {"network.py", "task.py", "data.py", "brightness.yaml"}


def test_the_fifth_task_is_inspected_trained_tested_and_merged(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = re.findall(r"^python main\.py (.*)$", section("Add a task"), re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["inspect", "fit", "test", "merge"]
    for command in commands:
        main(shlex.split(command))
    (run,) = (folder / "runs").iterdir()
    summary = json.loads((run / "training_summary.json").read_text())
    assert (summary["task"], summary["metric"], summary["mode"]) == ("BrightnessRegression", "val_mae", "min")
    assert summary["baseline"] > 0.3
    assert summary["best"] < 0.1 < CONSTANT
    assert summary["merge_relative_diff"] <= 1e-4
    assert summary["audit"].startswith("all 24 adapters act and learn")
    (result,) = (run / "results").glob("*_eval.json")
    assert json.loads(result.read_text())["metrics"]["test_mae"] < CONSTANT
    assert (folder / "my_model" / "model.safetensors").is_file()
    # of the network inside, so that plain timm and PEFT open it
    (adapter,) = (path for path in run.glob("best_lora_*") if path.is_dir())
    assert (adapter / "encoder.backbone" / "adapter_model.safetensors").is_file()
    assert "Merged 24 adapters" in capsys.readouterr().out
    forms = [*run.glob("best_*"), folder / "my_model"]
    assert len(forms) == 4
    figures = [measured(form, folder) for form in forms]
    assert max(figures) - min(figures) < 1e-5


def measured(form: Path, folder: Path) -> float:
    """Return the figure of a checkpoint, an adapter folder or a merged folder on the test images."""
    main(["test", "--trust", "--ckpt_path", str(form), "--trainer.default_root_dir", str(folder / "again")])
    newest = max(folder.rglob("results/*_eval.json"), key=lambda path: path.stat().st_mtime_ns)
    result = json.loads(newest.read_text())
    assert Path(result["weights"]).name == form.name
    return result["metrics"]["test_mae"]


def test_the_example_keeps_the_style_of_the_house(folder: Path) -> None:
    pytest.importorskip("ruff")
    config = ["--config", str(ROOT / "pyproject.toml")]
    ours = ["--config", 'lint.isort.known-first-party = ["brightness", "callbacks", "datamodules", "eomt"]']
    for arguments in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", *config, *ours, "brightness"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_the_example_of_a_docstring_is_true(folder: Path) -> None:
    (folder / "example.py").write_text(re.findall(r"```python\n(.*?)```", section("Style"), re.DOTALL)[0])
    window_starts = importlib.import_module("example").window_starts
    assert window_starts(10, 10) == [0]
    assert window_starts(25, 10) == [0, 8, 15]
    del sys.modules["example"]
