"""Prompted segmentation through the command line: every file measures alike, and opens where it should."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoProcessor, Sam2Model

from datamodules import SteelStrips
from eomt.models import SAM2
from eomt.pictures.prompts import PROMPT
from tests.cli_runs import Workspace, refusal
from tests.ranks import run_on_ranks
from tests.tiny_sam2 import tiny_folder


def write_workspace(folder: Path) -> Workspace:
    """Strips of steel, and a config of four steps."""
    data = {"path": str(folder / "strips"), "num_images": 24, "strip_size": [32, 96], "img_size": None}
    SteelStrips(**{**data, "img_size": 64}).prepare_data()  # type: ignore[arg-type]
    lora = {"rank": 2, "target_modules": ["attn", "mask_decoder.transformer"], "freeze_base_model": True}
    config: dict[str, Any] = {
        "model": {
            "class_path": "eomt.tasks.PromptedSegmentation",
            "init_args": {
                "lr": 3e-3,
                "sampling": {"correction_clicks": 1},
                "network": {
                    "class_path": "eomt.models.SAM2",
                    "init_args": {"pretrained": tiny_folder(), "img_size": 64},
                },
                "lora_config": lora,
            },
        },
        "data": {"class_path": "datamodules.SteelStrips", "init_args": data | {"batch_size": 4}},
        # without step 0, which these few steps may not beat: adapters that are zero show nothing
        "trainer": {"max_steps": 4, "log_every_n_steps": 2, "num_sanity_val_steps": 0},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    return Workspace(folder)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return write_workspace(tmp_path_factory.mktemp("prompted"))


@pytest.fixture(scope="module")
def run(workspace: Workspace) -> Path:
    return workspace.fit("prompted")


def measured(run: Path) -> dict[str, float]:
    file = max(run.glob("results/*_eval.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(file.read_text())["metrics"]


def best(run: Path) -> tuple[Path, Path, Path]:
    (checkpoint,) = run.glob("best_lora_*.ckpt")
    (merged,) = run.glob("best_merged_*")
    return checkpoint, checkpoint.with_suffix(""), merged


def test_checkpoint_adapter_and_merged_folder_give_one_figure(workspace: Workspace, run: Path) -> None:
    figures = []
    for path in best(run):
        workspace.run("test", "--ckpt_path", str(path), config=False)
        figures.append(measured(run))
    assert 'id="examples"' in (run / "report.html").read_text()
    for found in figures[1:]:
        assert found.keys() == figures[0].keys()
        for name, value in found.items():
            assert value == pytest.approx(figures[0][name], abs=1e-3, nan_ok=True), name
    names = (
        "box_iou",
        "centre_pooled_dice",
        "points_macro_iou",
        "box_filled_iou",
        "centre_disc_iou",
        "box_iou_class_defect_1",
    )
    assert all(f"test_{name}" in figures[0] for name in names)
    assert figures[0]["test_iou"] == figures[0]["test_box_iou"]


def test_figures_are_the_same_in_every_run_and_batch(workspace: Workspace, run: Path) -> None:
    found = []
    for size in ("1", "4", "4"):
        workspace.run("test", "--ckpt_path", str(best(run)[0]), "--data.eval_batch_size", size, config=False)
        found.append(measured(run))
    for other in found[1:]:
        for name, value in other.items():
            assert value == pytest.approx(found[0][name], abs=1e-6, nan_ok=True), name
    assert found[1] == pytest.approx(found[2], abs=0, nan_ok=True)


def test_plain_transformers_and_peft_open_adapter_and_merged_model(workspace: Workspace, run: Path) -> None:
    peft = pytest.importorskip("peft")
    _, adapter, merged = best(run)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = Sam2Model.from_pretrained(merged).eval()(image).pred_masks
        opened = peft.PeftModel.from_pretrained(Sam2Model.from_pretrained(tiny_folder()), adapter).eval()
        found = opened(pixel_values=image).pred_masks
        base = Sam2Model.from_pretrained(tiny_folder()).eval()(image).pred_masks
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(base, expected, atol=1e-4)
    ours = SAM2(pretrained=str(merged))
    assert (ours.inner_models, ours.img_size) == (("model",), (64, 64))
    assert AutoProcessor.from_pretrained(merged).image_processor.size["height"] == 64


def test_a_run_shows_what_it_sees_and_lists_its_data(run: Path) -> None:
    pictures = {path.name for path in (run / "pictures").iterdir()}
    assert {"train_batch.png", "val_step000004.png"} <= pictures
    summary = json.loads((run / "training_summary.json").read_text())
    assert summary["data"]["train"]["images"] > summary["data"]["val"]["images"] > 0
    assert summary["merge_relative_diff"] <= 1e-4
    # 15.4: said wherever the figure is
    assert "come from the true masks (mode box)" in summary["notes"][0]
    assert "the box, filled" in summary["notes"][1]
    text = (run / "training.log").read_text()
    assert all(note in text for note in summary["notes"])


def test_merge_writes_either_layout(
    workspace: Workspace, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(best(run)[0])
    workspace.run("merge", "--ckpt_path", checkpoint, "--output", str(tmp_path / "merged"), config=False)
    workspace.run("merge", "--ckpt_path", checkpoint, "--output", str(tmp_path / "merged.pt"), config=False)
    state = torch.load(tmp_path / "merged.pt", weights_only=True)["model"]
    assert "image_encoder.trunk.blocks.0.attn.qkv.weight" in state
    theirs = Sam2Model.from_pretrained(tmp_path / "merged").state_dict()
    name = "vision_encoder.backbone.blocks.0.attn.qkv.weight"
    assert torch.equal(state["image_encoder.trunk.blocks.0.attn.qkv.weight"], theirs[name])
    assert "exists" in refusal(
        capsys, workspace, "merge", "--ckpt_path", checkpoint, "--output", str(tmp_path / "merged.pt"), config=False
    )


def test_the_prompt_free_mode_trains_its_class_prompts_and_predicts_a_folder(workspace: Workspace) -> None:
    free = ["--model.network.prompt_free", "true", "--data.include_clean", "true", "--model.watch", "none"]
    run = workspace.fit("free", *free)
    for path in best(run):
        workspace.run("test", "--ckpt_path", str(path), config=False)
    # 15.2: selected by what falls with false alarms, and named after it
    summary = json.loads((run / "training_summary.json").read_text())
    assert summary["metric"] == "val_none_kaggle_dice"
    assert f"_none_kaggle_dice{summary['best']:.4f}_iou" in best(run)[0].name
    assert "An answer without any mask has val_none_kaggle_dice" in summary["notes"][0]
    folder = workspace.folder / "strips" / "train_images"
    workspace.run("predict", "--ckpt_path", str(best(run)[2]), "--data.predict_path", str(folder), config=False)
    assert len(list((run / "predictions" / "masks").glob("*.png"))) == len(list(folder.iterdir()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.network.pretrained", "nowhere.pt"], "nowhere.pt"),
        (["--model.network.img_size", "[50, 64]"], "img_size"),
        (["--model.watch", "none", "--model.modes", "[box]"], "watch"),
        (["--model.sampling.box_probability", "2"], "box_probability"),
        (["--model.lora_config.target_modules", "[atn]"], "nearest: attn"),
        (["--model.network.num_classes", "7"], "num_classes: 7"),
        (["--model.network.pretrained", "TENSOR"], "holds no tensors by name"),
        (["--model.network.pretrained", "SCALAR"], "'number' is no tensor but int"),
    ],
)
def test_mistakes_are_told_in_one_line(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    files = {"TENSOR": torch.zeros(1), "SCALAR": {"model": {"weight": torch.zeros(1), "number": 3}}}
    for name, content in files.items():
        torch.save(content, workspace.folder / f"{name}.pt")
    given = [str(workspace.folder / f"{name}.pt") if name in files else name for name in arguments]
    assert message in refusal(capsys, workspace, "fit", *given)


def test_prediction_without_prompts_is_refused_with_what_would_do(
    workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = str(best(run)[2])
    images = ("--data.predict_path", str(workspace.folder / "strips" / "train_images"))
    for given in ((), images):
        line = refusal(capsys, workspace, "predict", "--ckpt_path", merged, *given, config=False)
        assert "data.prompts: null, so nothing says which objects to outline; give a file: a CSV with columns" in line
        assert "prompt_free true" in line
    assert not (run / "predictions").exists()


def test_the_strips_come_with_prompts(workspace: Workspace, run: Path) -> None:
    prompts = ("--data.prompts", str(workspace.folder / "strips" / "prompts.csv"))
    workspace.run("predict", "--ckpt_path", str(best(run)[0]), *prompts, config=False)
    document = json.loads((run / "predictions" / "predictions.json").read_text())
    assert 10 < len(document["images"]) <= 20
    assert [category["name"] for category in document["categories"]] == [f"defect_{n}" for n in (1, 2, 3, 4)]
    # pictures show the prompt
    overlay = np.array(Image.open(min((run / "predictions" / "overlays").iterdir())))
    assert (overlay == PROMPT).all(2).any()
    shutil.rmtree(run / "predictions")


def test_two_processes_train_and_measure_what_one_does(workspace: Workspace) -> None:
    run_on_ranks(workspace, "fit", "--run_name", "two", "--data.batch_size", "2")
    run = workspace.runs / "two"
    figures = []
    for ranks in (1, 2):
        run_on_ranks(workspace, "test", "--ckpt_path", str(best(run)[0]), ranks=ranks)
        figures.append(measured(run))
    assert figures[0].keys() == figures[1].keys()
    for name, value in figures[1].items():
        assert value == pytest.approx(figures[0][name], abs=1e-6, nan_ok=True), name
    # three images on two ranks: the last one's batch is padding alone
    names = sorted(path.name for path in (workspace.folder / "strips" / "train_images").iterdir())[:3]
    table = workspace.folder / "clicks.csv"
    table.write_text("file,x,y\n" + "".join(f"{name},5,5\n" for name in names))
    part = ("--data.prompts", str(table), "--data.eval_batch_size", "1")
    run_on_ranks(workspace, "predict", "--ckpt_path", str(best(run)[0]), *part)
    assert sorted(path.name for path in (run / "predictions" / "masks").iterdir()) == [f"{name}.png" for name in names]
