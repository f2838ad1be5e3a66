"""`python -m eomt.audit`: what it prints, writes and exits with; and `eomt.audit`, which stays a function."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import eomt
import eomt.audit as program
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.files import save_adapter
from tests import documents
from tests.test_imports import HEAVY, loaded_by
from tests.verification.stored import tensors, write, write_base

PAGE = documents.ROOT / "docs" / "audit_files.md"


def run(*words: str | Path) -> int:
    return program.main([str(word) for word in words])


def test_a_sound_adapter_exits_with_0_a_fault_with_1_and_what_cannot_be_read_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(write(tmp_path / "a"), "--base", write_base(tmp_path)) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == "sound: 6 adapters of rank 4"
    assert printed.err == ""
    zeros = {name: torch.zeros_like(value) if "lora_B" in name else value for name, value in tensors().items()}
    assert run(write(tmp_path / "b", zeros)) == 1
    assert capsys.readouterr().out.startswith("not sound: 6 adapters of rank 4; 1 fault\n")
    assert run(tmp_path / "nothing") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1


def test_json_is_printed_or_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tensors()
    next(value for name, value in state.items() if "lora_A" in name)[0, 0] = torch.nan
    folder = write(tmp_path / "a", state)
    assert run(folder, "--json", "-") == 1
    printed = json.loads(capsys.readouterr().out)
    assert run(folder, "--json", tmp_path / "report.json") == 1
    assert capsys.readouterr().out.startswith("not sound")
    assert json.loads((tmp_path / "report.json").read_text()) == printed
    assert printed["sound"] is False
    assert [finding["kind"] for finding in printed["findings"]] == ["non_finite"]
    assert printed["layers"][0]["norm"] is None
    assert printed["layers"][1]["norm"] > 0


def test_a_picture_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "a")
    assert run(folder, "--plot", tmp_path / "norms.png") == 0
    with Image.open(tmp_path / "norms.png") as picture:
        assert min(picture.size) > 300
    capsys.readouterr()
    assert run(folder, "--plot", tmp_path / "norms.txt") == 2
    assert capsys.readouterr().err.startswith("error: plot: ")
    assert run(write_base(tmp_path), "--base", write_base(tmp_path), "--plot", tmp_path / "x.png") == 2
    assert capsys.readouterr().err.startswith("error: plot: there are no adapters to draw")
    (tmp_path / "folder.png").mkdir()
    for option in ("--plot", "--json"):
        assert run(folder, option, tmp_path / "folder.png") == 2
        assert "folder.png is a folder" in capsys.readouterr().err


def test_folders_that_are_missing_are_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "a")
    for option, name in (("json", "report.json"), ("plot", "norms.png")):
        assert run(folder, f"--{option}", tmp_path / "deep" / name) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert (
            printed.err == f"error: {option}: {tmp_path / 'deep'} is no folder; make it first, or give another name\n"
        )
    assert not (tmp_path / "deep").exists()


def test_a_pickle_of_another_protocol_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(pickle.dumps({"a": Path("b")}, protocol=4))
    command = [sys.executable, "-m", "eomt.audit", str(tmp_path / "a.bin")]
    result = subprocess.run(command, cwd=documents.ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_names_cannot_move_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {f"{name[:16]}\x1b[2J{name[16:]}": value for name, value in tensors().items()}
    assert run(write(tmp_path / "a", state)) == 1
    assert "\x1b" not in capsys.readouterr().out


def test_the_module_is_light_and_runs_as_a_program(tmp_path: Path) -> None:
    assert not loaded_by("import eomt.audit") & {"torch", *HEAVY}
    assert not loaded_by(f"import eomt.audit; eomt.audit.main([{str(write(tmp_path / 'a'))!r}])") & set(HEAVY)
    command = [sys.executable, "-m", "eomt.audit", str(tmp_path / "none")]
    result = subprocess.run(command, cwd=documents.ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_the_function_stays_when_the_module_is_imported(tmp_path: Path) -> None:
    assert sys.modules["eomt.audit"] is program
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    apply_lora(model, LoRAConfig(rank=2, target_modules=["0", "2"], freeze_base_model=True))
    report = eomt.audit(model, torch.randn(8, 4), lambda net, x: net(x).square().mean(), allow_random_base=True)
    assert report.is_sound
    from eomt import audit

    assert audit(model, torch.randn(8, 4), lambda net, x: net(x).square().mean(), allow_random_base=True).is_sound
    for parameter in model.parameters():
        parameter.data += 0.1
    assert run(save_adapter(model, tmp_path / "adapter")) == 0


@pytest.mark.parametrize("first", ["import eomt", "import eomt.audit", "import eomt.verification.stored.report"])
def test_either_import_may_come_first(first: str) -> None:
    code = f"{first}; import eomt; assert callable(eomt.audit); import eomt.audit; assert callable(eomt.audit)"
    code += "; from eomt import audit; assert callable(audit); from eomt.verification import audit; audit.__code__"
    subprocess.run([sys.executable, "-c", code], cwd=documents.ROOT, check=True)


def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = [words for words in documents.module_commands(PAGE) if words[0] == "eomt.audit" and len(words) > 1]
    assert len(commands) >= 4
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my_adapter")
    write_base(tmp_path)
    (tmp_path / "my_base").mkdir()
    (tmp_path / "base.safetensors").rename(tmp_path / "my_base" / "model.safetensors")
    (tmp_path / "my_merged").mkdir()
    changed = {f"blocks.{index}.fc1.weight": torch.ones(24, 16) for index in range(3)}
    write_base(tmp_path, changed).rename(tmp_path / "my_merged" / "model.safetensors")
    for words in commands:
        assert run(*words[1:]) in (0, 1)
    assert (tmp_path / "norms.png").is_file()
    assert (tmp_path / "report.json").is_file()


def test_the_page_explains_each_kind_of_finding() -> None:
    rooms = sorted((documents.ROOT / "eomt" / "verification" / "stored").glob("*.py"))
    code = "\n".join(room.read_text() for room in rooms)
    found = set(re.findall(r'Finding\(\s*"(\w+)"', code))
    assert len(found) > 25
    page = PAGE.read_text()
    assert {kind for kind in found if f"| `{kind}` |" not in page} == set()
    explained = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert explained == found
