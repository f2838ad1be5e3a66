"""`python main.py export`: it takes what `merge` takes, proves what it writes, and refuses in one line."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

import eomt
from tests import documents
from tests.cli_runs import Workspace, make_workspace, refusal


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def run(workspace: Workspace) -> Path:
    return workspace.fit("first")


def best(run: Path) -> Path:
    return next(run.glob("best_lora_*.ckpt"))


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test exports to, and the second one exports again."""
    return tmp_path_factory.mktemp("output") / "graphs"


def test_a_run_becomes_a_folder_that_segments_alike(
    workspace: Workspace, run: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(workspace.folder.rglob("*"))
    capsys.readouterr()
    workspace.run("export", "--ckpt_path", "best", "--run_name", "first", "--output", str(output), config=False)
    assert sorted(workspace.folder.rglob("*")) == before
    printed = capsys.readouterr().out
    record = json.loads((output / "export.json").read_text())
    check = record["checks"]["onnxruntime"]
    assert record["source"] == best(run).name
    assert (check["samples"], check["source"]) == (3, "validation samples")
    # the figure of validation itself
    assert f"iou{check['metrics']['val_iou'][0]:.4f}" in best(run).name
    for word in ("Merged 24 adapters", "model.onnx", "val_iou", "onnxruntime ms", f"Exported model: {output}"):
        assert word in printed
    image = workspace.folder / "data" / "val" / "images" / "00.png"
    found, expected = eomt.load(output).predict(image), eomt.load(run).predict(image)
    assert (found.class_map == expected.class_map).mean() > 0.999
    assert str(workspace.folder) not in "".join(path.read_text("latin-1") for path in output.iterdir())


def test_the_python_of_the_page_runs(
    workspace: Workspace, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = documents.blocks(documents.ROOT / "docs" / "export.md", "python")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(output, tmp_path / "my_graphs")
    shutil.copy(workspace.folder / "data" / "val" / "images" / "00.png", tmp_path / "street.jpg")
    exec(code, {})
    assert (tmp_path / "street.png").is_file()


def test_a_merged_folder_is_exported_without_data_and_replaces_an_export(
    workspace: Workspace, run: Path, output: Path
) -> None:
    merged = next(run.glob("best_merged_*"))
    arguments = ["--ckpt_path", str(merged), "--data", "null", "--output", str(output), "--format", "torch"]
    workspace.run("export", *arguments, config=False)
    assert [path.name for path in output.parent.iterdir()] == ["graphs"]
    assert not (output / "model.onnx").exists()
    record = json.loads((output / "export.json").read_text())
    assert (record["source"], record["format"]) == (merged.name, "torch")
    assert record["checks"]["torch"]["source"] == "a synthetic batch (no data was given)"


def test_safetensors_are_what_merge_writes(workspace: Workspace, run: Path, tmp_path: Path) -> None:
    for command, more in (("merge", []), ("export", ["--format", "safetensors"])):
        output = str(tmp_path / command)
        workspace.run(command, "--ckpt_path", str(best(run)), "--output", output, *more, config=False)
    written = [
        {path.name: path.read_bytes() for path in (tmp_path / command).iterdir()} for command in ("merge", "export")
    ]
    assert written[0] == written[1]
    assert "model.safetensors" in written[0]


REFUSED = [
    ([], "output: null; give the folder"),
    (["--output", "{tmp}/a", "--format", "tensorrt"], "format: tensorrt is built on the GPU that will run it"),
    (["--output", "{tmp}/a", "--format", "h5"], "format: 'h5'; must be onnx, openvino, torch, safetensors"),
    (["--output", "{tmp}/a", "--dtype", "int8"], "dtype: 'int8'; must be fp32, fp16"),
    (["--output", "{tmp}/a", "--opset", "9"], "opset: 9; must be 18 to 20"),
    (["--output", "{tmp}/a", "--limit", "0"], "limit: 0; must be at least 1 validation sample"),
    (["--output", "{tmp}/a", "--check", "[cpu]"], "check: 'cpu'; must be some of onnxruntime, openvino"),
    (["--output", "{tmp}/a", "--anomaly", "[odd]"], "anomaly: 'odd'; must be some of msp"),
    (["--output", "{tmp}/model.onnx"], "give a folder, which gets graphs"),
    (["--output", "{tmp}/taken"], "exists and is no exported model; choose another folder"),
    (["--output", "{tmp}/taken/note.txt/a"], "is a file; choose another folder"),
    (["--output", "{tmp}/a", "--ckpt_path", "null"], "ckpt_path: null; give the weights to export"),
    (["--output", "{tmp}/a", "--ckpt_path", "{tmp}/none.ckpt"], "does not exist"),
]


@pytest.mark.parametrize(("args", "message"), REFUSED, ids=lambda value: str(value)[-40:])
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    workspace: Workspace,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    message: str,
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "note.txt").write_text("mine")
    given = [arg.format(tmp=tmp_path) for arg in args]
    if "--ckpt_path" not in given:
        given += ["--ckpt_path", str(best(run))]
    before = sorted(tmp_path.rglob("*"))
    assert message in refusal(capsys, workspace, "export", *given)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_package_is_named_with_its_extra(
    workspace: Workspace,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    line = refusal(capsys, workspace, "export", "--ckpt_path", str(best(run)), "--output", str(tmp_path / "a"))
    assert "format: onnx needs onnxscript; pip install -e '.[export]'" in line
