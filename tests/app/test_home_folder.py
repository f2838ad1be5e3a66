"""`~` is the home folder in every path, in YAML and on the command line, wherever the path is used first."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from eomt.app.arguments import in_order
from eomt.cli import main
from eomt.utils.paths import expand
from tests.cli_runs import make_workspace


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder, with data and a config; another folder is the current one."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    workspace = make_workspace(tmp_path / "home")
    config: dict[str, Any] = yaml.safe_load(workspace.config.read_text())
    config["trainer"] |= {
        "default_root_dir": "~/my_runs",
        "max_steps": 2,
        "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "~/logs"}},
    }
    workspace.config.write_text(yaml.safe_dump(config))
    return tmp_path / "home"


def test_a_run_below_the_home_folder_is_written_and_found_there(home: Path) -> None:
    """16.13: `default_root_dir: ~/runs` wrote to one place and looked in another."""
    main(["fit", "--config=~/tiny.yaml", "--run_name", "mine"])
    run = home / "my_runs" / "mine"
    assert (run / "config.yaml").is_file()
    assert (home / "logs").is_dir()
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["trainer"]["default_root_dir"] == str(home / "my_runs")
    main(["merge", "--config=~/tiny.yaml", "--run_name", "mine", "--ckpt_path", "best", "--output=~/merged"])
    assert (home / "merged" / "model.safetensors").is_file()
    (latest,) = run.glob("latest_lora_step*.ckpt")
    main(["test", f"--ckpt_path=~/my_runs/mine/{latest.name}", "--trainer.logger", "false"])
    main(["test", "--trainer.default_root_dir=~/my_runs", "--run_name", "mine", "--ckpt_path", "latest"])
    main(["fit", "--config", "~/tiny.yaml", "--run_name", "other", "--trainer.default_root_dir=~/others"])
    assert (home / "others" / "other" / "config.yaml").is_file()
    # nothing is named ~
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["fit", "--config=~/a.yaml"], ["fit", "--config=/home/me/a.yaml"]),
        (["fit", "-c", "~/a.yaml"], ["fit", "-c", "/home/me/a.yaml"]),
        (["--ckpt_path", "~", "fit"], ["fit", "--ckpt_path", "~"]),
        (["--ckpt_path=~", "fit"], ["fit", "--ckpt_path=~"]),
        (["fit", "--data.predict_question", "~/a?"], ["fit", "--data.predict_question", "~/a?"]),
    ],
)
def test_only_paths_are_expanded(given: list[str], found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """16.13: `~` alone is YAML's null, and a text stays a text."""
    monkeypatch.setenv("HOME", "/home/me")
    command = "predict" if "--data.predict_question" in given else "fit"
    swapped = [command if arg == "fit" else arg for arg in given]
    assert in_order(swapped) == [command if arg == "fit" else arg for arg in found]


def test_the_home_of_nobody_is_a_folder_that_is_not_there() -> None:
    """16.13: it was a traceback."""
    assert expand("~no_such_user/images") == Path("~no_such_user/images")
