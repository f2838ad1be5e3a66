"""`python main.py inspect`: what it prints is so, it writes nothing, and a fault stops it as it stops a fit."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import eomt.models.weights.eomt.load
from datamodules import StreetScenes
from eomt.models.eomt import EoMT
from eomt.models.vit import ViT
from eomt.tasks import SemanticSegmentation
from eomt.utils.module_paths import collapse_paths
from tests.cli_runs import Workspace, make_workspace, refusal


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("inspect"))


@pytest.fixture(scope="module")
def run(workspace: Workspace) -> Path:
    return workspace.fit("first", "--trainer.max_epochs", "1")


def files_beside_pictures(folder: Path) -> list[Path]:
    """Return the files in a folder but those that `inspect` draws."""
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.parent.name != "inspected")


def inspect(workspace: Workspace, capsys: pytest.CaptureFixture[str], *args: str, config: bool = True) -> str:
    """What is printed; nothing may be written meanwhile."""
    before = files_beside_pictures(workspace.folder)
    capsys.readouterr()
    workspace.run("inspect", *args, config=config)
    assert files_beside_pictures(workspace.folder) == before
    return capsys.readouterr().out


def section(output: str, title: str) -> list[str]:
    """The rows below a heading."""
    lines = output.splitlines()
    start = lines.index(title) + 1
    return list(itertools.takewhile(lambda line: line.startswith("  "), lines[start:]))


def expanded(text: str) -> list[str]:
    """Every path that a row such as `a.{0,2-3}.b` stands for."""
    pieces = []
    for piece in re.split(r"(\{[^}]*\})", text):
        if not piece.startswith("{"):
            pieces.append([piece])
            continue
        numbers: list[str] = []
        for run in piece.strip("{}").split(","):
            first, _, last = run.partition("-")
            numbers += [str(number) for number in range(int(first), int(last or first) + 1)]
        pieces.append(numbers)
    return ["".join(choice) for choice in itertools.product(*pieces)]


@pytest.mark.parametrize(
    "paths",
    [
        ["head"],
        ["a.0.b", "a.1.b", "a.2.b"],
        ["a.0.b", "a.2.b", "a.3.b", "a.11.b"],
        [f"a.{i}.b.{j}" for i in range(3) for j in range(2)],
        ["a.0.b.0", "a.0.b.1", "a.1.b.0"],
        [f"stages.{i}.blocks.{j}.fc" for i, depth in enumerate((2, 3, 2, 3)) for j in range(depth)],
    ],
)
def test_a_row_stands_for_exactly_its_paths(paths: list[str]) -> None:
    texts = collapse_paths(paths)
    found = {text: expanded(text) for text in texts}
    assert sorted(itertools.chain(*found.values())) == sorted(paths)
    assert {text: len(rows) for text, rows in found.items()} == texts


def test_every_module_of_the_network_is_in_one_table(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    output = inspect(workspace, capsys)
    adapted = section(output, "Adapted modules")
    tables = [adapted, section(output, "Trained in full"), section(output, "Left as it is")]
    listed = [path for rows in tables for row in rows for path in expanded(row.split()[0])]
    encoder = ViT("test_vit", (32, 48), pretrained=False, patch_size=8)
    network = EoMT(encoder, 3, num_q=6, num_blocks=2)
    owners = {name.rpartition(".")[0] for name, _ in network.named_parameters()}
    assert sorted(listed) == sorted(owners)
    assert section(output, "Trained in full") == ["  class_head         260 parameters"]
    # rank 4 on 64 -> 192: 4 * (64 + 192)
    row = "encoder.backbone.blocks.{0-5}.attn.qkv 6 x 192 x 64 rank 4, alpha 8 1,024 parameters"
    assert " ".join(adapted[0].split()) == row
    assert "[LoRA] Manual injection: 21,504 trainable params across 6 layers" in output
    assert "[LoRA] Trainable: 21,764 (6.88%) | Total: 316,292" in output


def test_numbers_add_up_where_the_base_is_trained_too(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    output = inspect(workspace, capsys, "--model.lora_config.freeze_base_model", "false")
    count = 0
    for row in section(output, "Adapted modules") + section(output, "Trained in full"):
        times = re.search(r" (\d+) x  ", row)
        number = re.search(r"([\d,]+) parameters", row)
        assert number
        count += int(number[1].replace(",", "")) * (int(times[1]) if times else 1)
    assert f"[LoRA] Trainable: {count:,} " in output
    assert "blocks.{0-5}.attn.qkv.bias" in output
    assert "Adapter on disk: none (no adapter folder: " in output


def test_ranks_and_slices_have_rows_of_their_own(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    args = ("--model.lora_config.target_modules", "[query, value]", "--model.lora_config.layers", "last:4")
    args += ("--model.lora_config.rank_pattern", '{"blocks.3": 2}')
    rows = section(inspect(workspace, capsys, *args), "Adapted modules")
    assert [row.split()[0].removeprefix("encoder.backbone.") for row in rows] == [
        "blocks.{2,4-5}.attn.qkv",
        "blocks.3.attn.qkv",
    ]
    assert "rank 2, alpha 8 on query, value" in rows[1]


def test_the_size_on_disk_is_that_of_a_saved_adapter(
    workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = next(path for path in run.glob("best_lora_*") if path.is_dir())
    size = sum(path.stat().st_size for path in saved.rglob("*") if path.is_file())
    for args in ((), ("--ckpt_path", str(saved))):
        assert f"Adapter on disk: {size:,} bytes (" in inspect(workspace, capsys, *args, config=not args)


def test_data_memory_and_verdict_are_told(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    output = inspect(workspace, capsys)
    assert "Data: train: images 8, class 0 8, " in output
    assert "Data: val: images 3, " in output
    assert "Data: test: images 2\n" in output
    assert "Data: 3 classes: class 0, class 1, class 2" in output
    assert f"Base: {workspace.folder / 'base'}" in output
    assert output.splitlines()[-1].startswith("Audit: all 24 adapters act and learn; 1 modules trained in full learn")
    assert "Peak memory of training, batch of 2 on one cpu device" in output
    totals = {name: float(total) for name, total in re.findall(r"memory: (\w+).*?: +([\d.]+) MiB", output)}
    assert 0 < totals["least"] <= totals["less"] < totals["floor"]
    assert "Inputs of adapters: the backward pass makes 23 of 24 again; kept" in output


def test_the_switch_that_is_set_is_marked(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert "memory: floor (as set)" in inspect(workspace, capsys)
    assert "memory: less (as set)" in inspect(workspace, capsys, "--model.memory", "less")
    for args in (("--model.memory", "least"), ("--model.network.encoder.checkpointing", "true")):
        assert "memory: least (as set)" in inspect(workspace, capsys, *args)


def test_two_settings_that_contradict_each_other_are_refused(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("--model.memory", "floor", "--model.network.encoder.checkpointing", "true")
    assert "memory: floor, but checkpointing of the network is true" in refusal(capsys, workspace, "inspect", *args)


def test_the_largest_batch_for_a_gpu_is_named(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    output = inspect(workspace, capsys, "--gpu_memory", "2 GiB")
    sizes = [int(size.replace(",", "")) for size in re.findall(r"at most ([\d,]+) images in 2.15 GB", output)]
    assert len(sizes) == 3
    assert 8 < sizes[0] <= sizes[1] < sizes[2]
    assert "gpu_memory: '8'; give a number with its unit" in refusal(capsys, workspace, "inspect", "--gpu_memory", "8")


def test_the_batch_size_of_the_config_counts(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    totals = []
    for batch_size in ("1", "4"):
        output = inspect(workspace, capsys, "--data.batch_size", batch_size)
        assert f"batch of {batch_size} on" in output
        (total,) = re.findall(r"memory: floor.*?activations ([\d.]+)", output)
        totals.append(float(total))
    # at most four times as much, printed with one decimal
    assert 2.5 < totals[1] / totals[0] <= 4 + 0.25 / totals[0]


def test_a_checkpoint_is_inspected_with_its_own_config(
    workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (*run.glob("final_lora_*.ckpt"), *run.glob("best_lora_*.ckpt")):
        assert "all 24 adapters act" in inspect(workspace, capsys, "--ckpt_path", str(path), config=False)
    args = ("--ckpt_path", "latest", "--run_name", "first", "--model.lora_config.rank", "2")
    assert "rank" in refusal(capsys, workspace, "inspect", *args, config=False)


def test_a_merged_folder_and_full_fine_tuning_have_no_adapters(
    workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = str(next(run.glob("best_merged_*")))
    output = inspect(workspace, capsys, "--ckpt_path", merged, config=False)
    assert "Adapted modules: none" in output
    assert f"Base: {merged}" in output
    output = inspect(workspace, capsys, "--model.lora_config", "null")
    assert "[LoRA] Trainable: 294,788 (100.00%) | Total: 294,788" in output
    assert output.splitlines()[-1] == "Audit: every parameter is trained"


def test_without_data_and_base_classes_are_assumed_and_said(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = ("--data", "null", "--model.network.pretrained", "false")
    output = inspect(workspace, capsys, *bare)
    assert output.splitlines()[0].startswith("data: null, so 2 classes are assumed")
    assert "Base: random, no weights were loaded; `fit` wants --audit.allow_random_base true" in output
    assert "Batch: synthetic, of 4" in output
    assert "Audit: all 24 adapters act and learn" in output
    output = inspect(workspace, capsys, *bare, "--model.network.num_classes", "7")
    assert "assumed" not in output
    # 64 -> 7 + 1
    assert section(output, "Trained in full") == ["  class_head         520 parameters"]


def test_generated_data_are_not_generated(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    args = ("--data", "datamodules.StreetScenes", "--data.path", str(tmp_path / "streets"), "--data.batch_size", "3")
    output = inspect(workspace, capsys, *args, "--model.network.pretrained", "false")
    assert "`fit` makes the data, and has not yet" in output
    assert "batch of 3 on" in output
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_in_generated_data_is_not_taken_for_missing_data(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """15.34: any mistake read as "`fit` makes the data, and has not yet"."""
    args = ("--data", "datamodules.StreetScenes", "--data.path", str(tmp_path / "streets"), "--data.batch_size", "99")
    args += ("--data.num_train", "4", "--data.num_val", "1", "--data.num_test", "1")
    StreetScenes(str(tmp_path / "streets"), num_train=4, num_val=1, num_test=1).prepare_data()
    error = refusal(capsys, workspace, "inspect", *args, "--model.network.pretrained", "false")
    assert "batch_size: 99 on 1 processes is more than the 4 training images" in error


def test_generated_data_of_other_settings_are_refused_as_in_a_fit(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """15.34: the images of other settings were shown, with status 0."""
    StreetScenes(str(tmp_path / "streets"), num_train=4, num_val=1, num_test=1).prepare_data()
    args = ("--data", "datamodules.StreetScenes", "--data.path", str(tmp_path / "streets"), "--data.batch_size", "3")
    args += ("--data.num_train", "5", "--data.num_val", "1", "--data.num_test", "1")
    errors = [
        refusal(capsys, workspace, command, *args, "--model.network.pretrained", "false")
        for command in ("inspect", "fit")
    ]
    assert "train 4 instead of 5" in errors[0]
    assert errors[0] == errors[1]


def test_a_dead_adapter_is_one_line_and_status_2(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SemanticSegmentation.losses

    def detached(self: SemanticSegmentation, batch: dict) -> tuple[dict[str, Tensor], object]:
        losses, output = original(self, batch)
        return {name: value.detach() for name, value in losses.items()}, output

    monkeypatch.setattr(SemanticSegmentation, "losses", detached)
    assert "does not depend on anything trainable" in refusal(capsys, workspace, "inspect")


def test_a_half_loaded_base_is_a_fault_as_in_a_fit(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = eomt.models.weights.eomt.load.load_eomt

    def half(network: EoMT, source: str, load_class_head: bool) -> Any:
        names, settings = original(network, source, load_class_head)
        return [name for name in names if not name.startswith("upscale")], settings

    monkeypatch.setattr(eomt.models.weights.eomt.load, "load_eomt", half)
    errors = [refusal(capsys, workspace, command, "--run_name", "half") for command in ("inspect", "fit")]
    assert "is frozen but was never loaded" in errors[0]
    assert errors[0] == errors[1]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--data.path", "nowhere"), "nowhere is not a folder"),
        (("--model.lora_config.target_modules", "[attention, mpl]"), "'mpl' matches no module"),
        (("--data.batch_size", "9"), "batch_size: 9"),
        (("--ckpt_path", "nowhere"), "nowhere does not exist"),
        (
            ("--model.lora_config.enabled", "false", "--model.lora_config.trainable_modules", "[]"),
            "there is nothing to train",
        ),
        (("--trainer.accelerator", "gpu"), "trainer: "),
    ],
)
def test_mistakes_are_one_line(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], message: str
) -> None:
    if "gpu" in args and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert message in refusal(capsys, workspace, "inspect", *args)


def test_commands_that_need_data_say_so(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("fit", "validate", "test", "predict"):
        assert f"data: null, but {command} needs data" in refusal(capsys, workspace, command, "--data", "null")
    assert not list(workspace.runs.glob("tiny_*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data.augment", "false"], "kept from one epoch to the next, up to 4 GiB\n"),
        ([], "up to 4 GiB, of validation: training images are drawn anew\n"),
        (["--model.feature_cache", "0"], "; computed each time, as feature_cache is 0\n"),
    ],
)
def test_it_says_what_is_frozen_at_the_start(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    heads = ["--model.lora_config.enabled", "false", "--model.lora_config.freeze_base_model", "true"]
    heads += ["--model.lora_config.trainable_modules", "[q, class_head, mask_head, upscale]"]
    assert "Frozen at the start" not in inspect(workspace, capsys)
    output = inspect(workspace, capsys, *heads, *options)
    assert re.search(r"^Frozen at the start: first \d+ blocks \(\d+\.\d MiB a sample\)", output, re.MULTILINE)
    assert said in output
