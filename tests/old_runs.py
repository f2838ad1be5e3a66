"""Workspaces around the run folders of version 0.1.0 in `tests/old_runs`: their data and bases are made again.

The weights of the bases follow a formula, so that they are the same wherever and whenever they are made.
"""

import shutil
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from datamodules import SteelStrips
from tests.cli_runs import Workspace, make_workspace
from tests.datamodules.faces.face_files import write_face, write_splits
from tests.datamodules.questions.question_files import color_rows, write_csv, write_questions
from tests.tiny_morph import SIZES
from tests.tiny_morph import tiny_model as tiny_mae
from tests.tiny_sam2 import tiny_model as tiny_sam2
from tests.tiny_vqa import write_models

FOLDER = Path(__file__).parent / "old_runs"
# stands in the saved files for the folder of the workspace
PLACE = "/WORKSPACE"


def formula(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Waves in place of every tensor of real numbers; around 1 where a factor is meant."""
    for index, (name, value) in enumerate(sorted(state.items())):
        if value.is_floating_point() and name != "attn_mask_probs":
            wave = torch.sin(torch.arange(value.numel(), dtype=torch.float64) * 0.71 + index) * 0.1
            wave = wave + (value.dim() == 1 and name.endswith("weight"))
            value.copy_(wave.view(value.shape))
    return state


def refill(file: Path) -> None:
    """Puts the formula into a file of weights."""
    save_file({name: value.contiguous() for name, value in formula(load_file(file)).items()}, file, {"format": "pt"})


def make(task: str, folder: Path) -> Workspace:
    """Data and base of one of the runs, and the configuration that it was started with."""
    if task == "eomt":
        workspace = make_workspace(folder)
        refill(folder / "base" / "model.safetensors")
        config = yaml.safe_load(workspace.config.read_text())
        lora = config["model"]["init_args"]["lora_config"]
        lora |= {"rank": 2, "lora_alpha": 4, "target_modules": ["qkv"], "layers": "last:2"}
        config["trainer"] |= {"max_epochs": 1, "num_sanity_val_steps": 0}
    elif task == "sam2":
        workspace = Workspace(folder)
        config = _sam2(folder)
    elif task == "morph":
        workspace = Workspace(folder)
        config = _morph(folder)
    else:
        workspace = Workspace(folder)
        config = _vqa(folder)
    workspace.config.write_text(yaml.safe_dump(config))
    return workspace


def place(task: str, workspace: Workspace) -> Path:
    """Copies a run of version 0.1.0 into a workspace; returns its folder there."""
    run = workspace.runs / task
    shutil.copytree(FOLDER / task, run)
    for file in run.rglob("*"):
        if file.suffix in (".yaml", ".json"):
            file.write_text(file.read_text().replace(PLACE, str(workspace.folder)))
    return run


def _component(class_path: str, **init_args: object) -> dict[str, object]:
    return {"class_path": class_path, "init_args": init_args}


TRAINER = {"max_steps": 4, "log_every_n_steps": 2, "num_sanity_val_steps": 0}


def _sam2(folder: Path) -> dict[str, object]:
    tiny_sam2().save_pretrained(folder / "base")
    refill(folder / "base" / "model.safetensors")
    data = {"path": str(folder / "strips"), "num_images": 24, "strip_size": [32, 96]}
    SteelStrips(**data, img_size=64).prepare_data()  # type: ignore[arg-type]
    network = _component("eomt.models.SAM2", pretrained=str(folder / "base"), image_size=64)
    lora = {"rank": 1, "target_modules": ["mask_decoder.transformer"], "freeze_base_model": True}
    model = _component("eomt.tasks.PromptedSegmentation", lr=3e-3, network=network, lora_config=lora)
    return {"model": model, "data": _component("datamodules.SteelStrips", **data, batch_size=4), "trainer": TRAINER}


def _morph(folder: Path) -> dict[str, object]:
    write_splits(folder / "people")
    tiny_mae().vit.save_pretrained(folder / "encoder")
    refill(folder / "encoder" / "model.safetensors")
    encoder = _component("eomt.models.MAEEncoder", pretrained=str(folder / "encoder"), **SIZES | {"img_size": [32, 32]})
    lora = {"rank": 1, "target_modules": ["query", "value"], "freeze_base_model": True}
    lora["trainable_modules"] = ["classifier"]
    network = _component("eomt.models.MorphDetector", encoder=encoder)
    model = _component("eomt.tasks.MorphDetection", lr=1e-2, network=network, lora_config=lora)
    data = {"path": str(folder / "people"), "batch_size": 4, "num_workers": 0, "identity_pattern": r"id\d+"}
    callbacks = ["callbacks.LoRACheckpoint", "callbacks.MergeOnSave", "callbacks.MorphResults"]
    trainer = TRAINER | {"callbacks": callbacks}
    return {"model": model, "data": _component("datamodules.MorphFaces", **data), "trainer": trainer}


def _vqa(folder: Path) -> dict[str, object]:
    write_questions(folder, range(12))
    write_csv(folder / "val.csv", color_rows(range(12, 16)))
    for image in range(12, 16):
        write_face(folder / f"{image}.jpg", image)
    vision, text = write_models(folder)
    for base in (vision, text):
        refill(Path(base) / "model.safetensors")
    settings = {"vision_model": vision, "text_model": text, "answer_head": "classification", "img_size": [28, 28]}
    lora = {"rank": 1, "target_modules": ["query", "value"], "exclude_modules": ["text_model", "fusion"]}
    model = _component(
        "eomt.tasks.VisualQuestionAnswering",
        lr=1e-2,
        network=_component("eomt.models.DeterministicVQA", **settings),
        lora_config=lora | {"freeze_base_model": True},
    )
    files = {"train_csv": str(folder / "train.csv"), "val_csv": str(folder / "val.csv")}
    data = _component("datamodules.VQACsv", **files, test_csv=files["val_csv"], batch_size=4)
    callbacks = ["callbacks.LoRACheckpoint", "callbacks.MergeOnSave", "callbacks.AnswerResults"]
    return {"model": model, "data": data, "trainer": TRAINER | {"callbacks": callbacks}}
