"""Commands without a run: the list of configurations, copies of them, the version, the help of all, completion."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import eomt
from eomt.app.arguments import COMMANDS, SMALL_COMMANDS
from eomt.app.command_line import CLI
from eomt.app.completion import script
from eomt.app.shipped import find_shipped, purpose, shipped_names
from eomt.app.small_commands import HELP, make_parser
from eomt.cli import main

Answer = Callable[..., str]


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Answer:
    """Run a command in a folder of its own; return what it printed, or the one line of its error."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> str:
        status: object = 0
        try:
            main(args)
        except SystemExit as stop:
            status = stop.code
        printed = capsys.readouterr()
        if not printed.err:
            assert status == 0
            return printed.out
        assert status == 2
        assert not printed.out
        (line,) = printed.err.splitlines()
        return line

    return run


def test_the_list_has_a_line_for_each_config(answer: Answer) -> None:
    lines = answer("configs").splitlines()
    assert [line.split()[0] for line in lines] == shipped_names()
    for name, line in zip(shipped_names(), lines, strict=True):
        file = find_shipped(name)
        assert file
        assert line.endswith(f"  {purpose(file)}")


def test_a_copy_is_the_file_and_is_never_written_over(answer: Answer) -> None:
    assert answer("configs", "copy", "quickstart/eomt") == "eomt.yaml\n"
    copy, original = Path("eomt.yaml"), find_shipped("quickstart/eomt")
    assert original
    assert copy.read_bytes() == original.read_bytes()
    copy.write_text("mine")
    assert answer("configs", "copy", "quickstart/eomt") == (
        "error: eomt.yaml: exists, and is not written over; give another folder"
    )
    assert copy.read_text() == "mine"
    assert answer("configs", "copy", "quickstart/eomt.yaml", "new/folder") == "new/folder/eomt.yaml\n"
    assert Path("new/folder/eomt.yaml").read_bytes() == original.read_bytes()
    # a link that leads nowhere is something, too
    Path("morph_mae.yaml").symlink_to("nowhere")
    assert "exists, and is not written over" in answer("configs", "copy", "morph_mae")


def test_all_are_copied_with_their_folder_or_none(answer: Answer) -> None:
    printed = answer("configs", "copy", "--all", "mine").splitlines()
    assert printed == [f"mine/{name}.yaml" for name in shipped_names()]
    copies = sorted(path for path in Path("mine").rglob("*") if path.is_file())
    assert copies == sorted(Path(name) for name in printed)
    Path("other").mkdir()
    Path("other/sam2_lora.yaml").touch()
    assert answer("configs", "copy", "other", "--all").startswith("error: other/sam2_lora.yaml: exists")
    assert [path.name for path in Path("other").iterdir()] == ["sam2_lora.yaml"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            (),
            "command: not given; there are fit, validate, test, predict, inspect, merge, export, demo, sweep, configs, "
            "completion, push",
        ),
        (("configs", "copy"), "configs copy: give a name, or --all"),
        (("configs", "copy", "eomt_lora", "folder", "--all"), "configs copy: a name and --all; give one of them"),
        (
            ("configs", "copy", "eomt_loro"),
            "configs copy: eomt_loro is none; give the name of a shipped one: eomt_lora",
        ),
        (("configs", "copy", "../eomt_lora"), "configs copy: ../eomt_lora is none"),
        (("configs", "copy", "vqa_lora", "\udce9"), "\\udce9: is no name in UTF-8"),
        (("configs", "copy", "a", "b", "c"), "eomt: unrecognized arguments: c; eomt --help"),
        (("configs", "list"), "configs: argument ACTION: invalid choice: 'list'"),
        (("completion",), "completion: the following arguments are required: shell; eomt completion --help"),
        (("completion", "fish"), "completion: argument shell: invalid choice: 'fish'"),
    ],
)
def test_a_mistake_is_told_in_one_line(answer: Answer, args: tuple[str, ...], message: str) -> None:
    assert answer(*args).startswith(f"error: {message}")


def test_a_folder_that_cannot_be_written_to_is_told(answer: Answer) -> None:
    Path("file").touch()
    assert answer("configs", "copy", "eomt_lora", "file") == (
        "error: file: cannot be written to (File exists); choose another folder"
    )
    Path("closed").mkdir(mode=0o500)
    if os.access("closed", os.W_OK):
        pytest.skip("nothing is closed to root")
    assert answer("configs", "copy", "eomt_lora", "closed").startswith(
        "error: closed: cannot be written to (Permission"
    )


def test_the_version_is_that_of_the_package(answer: Answer) -> None:
    assert answer("--version") == f"eomt {eomt.__version__}\n"


def test_the_help_of_all_names_every_command(answer: Answer) -> None:
    assert set(CLI.subcommands()) == set(COMMANDS) == set(HELP) - set(SMALL_COMMANDS)
    for option in ("--help", "-h"):
        printed = answer(option)
        assert all(f"    {command}" in printed for command in (*COMMANDS, *SMALL_COMMANDS))
    for command in (["configs"], ["configs", "copy"], ["completion"]):
        assert f"usage: eomt {' '.join(command)}" in answer(*command, "--help")


def test_the_help_of_fit_and_sweep_names_the_launchers(answer: Answer) -> None:
    said = " ".join(answer("fit", "--help").split())
    assert "--launcher {local,ray} takes this machine (the default), or the Ray cluster" in said
    assert "--num_workers N is the number of processes" in said
    sweep = answer("sweep", "--help")
    assert "--launcher" in sweep
    assert "--num_workers N" not in sweep
    assert "--launcher" not in answer("test", "--help")


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("completion") / "eomt.bash"
    file.write_text(script(make_parser(), "bash"))
    return file


def completed(file: Path, *words: str) -> list[str]:
    """What bash offers for the last of some words."""
    call = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_eomt; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    bash = ["bash", "--norc", "-c", call, "bash", str(file), "eomt", *words]
    return subprocess.run(bash, capture_output=True, text=True, check=True).stdout.split()


def test_bash_takes_the_script_and_completes_commands_options_and_configs(bash_script: Path) -> None:
    assert subprocess.run(["bash", "-n", bash_script], capture_output=True, check=True).stderr == b""
    assert completed(bash_script, "") == [*COMMANDS, *SMALL_COMMANDS]
    assert completed(bash_script, "in") == ["inspect"]
    assert completed(bash_script, "configs", "") == ["copy"]
    assert completed(bash_script, "configs", "copy", "morph") == ["morph_lora", "morph_mae"]
    assert completed(bash_script, "completion", "") == ["bash", "zsh"]
    assert completed(bash_script, "fit", "--config", "quickstart/s") == ["quickstart/sam2", "quickstart/sam2_base"]
    assert completed(bash_script, "fit", "--trust", "--trainer.max_s") == ["--trainer.max_steps"]
    assert completed(bash_script, "test", "--config", "eomt_lora", "--model.lora_config.layer") == [
        "--model.lora_config.layers"
    ]
    for command in ("fit", "sweep"):
        assert completed(bash_script, command, "--launch") == ["--launcher"]
        assert completed(bash_script, command, "--launcher", "") == ["local", "ray"]
    assert completed(bash_script, "fit", "--num_w") == ["--num_workers"]
    assert completed(bash_script, "test", "--launch") == completed(bash_script, "sweep", "--num_w") == []
    assert completed(bash_script, "merge", "--outp") == ["--output"]
    assert completed(bash_script, "fit", "--outp") == []
    # what Python calls the rest of the arguments is no option
    assert completed(bash_script, "fit", "--model.kwarg") == []
    assert bash_script.stat().st_size < 200_000


def test_zsh_takes_the_script(tmp_path: Path) -> None:
    text = script(make_parser(), "zsh")
    assert text.startswith("#compdef eomt")
    assert "quickstart/sam2_base" in text
    if (zsh := shutil.which("zsh")) is None:
        pytest.skip("there is no zsh")
    (tmp_path / "_eomt").write_text(text)
    assert subprocess.run([zsh, "-n", tmp_path / "_eomt"], capture_output=True, check=True).stderr == b""
