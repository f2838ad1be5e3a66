"""Classification from the command line: train, test, predict, resume, several labels, mistakes."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

import eomt
from callbacks.results.classification import holds_base
from datamodules.classification.transforms import shown
from datamodules.common.reading import read_pixels
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.models import TimmEncoder
from tests.cli_runs import Workspace, refusal
from tests.ranks import run_on_ranks
from tests.tiny_classification import COLORS, SIDE, make_classifier, make_vit, write_classes, write_photo

TRAINER: dict[str, Any] = {"max_steps": 8, "val_check_interval": 4, "check_val_every_n_epoch": None}


def component(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


def classification(folder: Path, **data: Any) -> Workspace:
    """A config that trains adapters and a classifier on 36 images of three colors."""
    if not data:
        write_classes(folder / "photos", 12)
    torch.manual_seed(0)
    save_file(make_vit().backbone.state_dict(), folder / "base.safetensors")
    encoder = {"backbone_name": "test_vit", "img_size": [16, 16], "patch_size": 8}
    encoder["pretrained"] = str(folder / "base.safetensors")
    network = component("eomt.models.ImageClassifier", encoder=component("eomt.models.ViT", **encoder))
    lora = {"rank": 2, "target_modules": ["attention"], "freeze_base_model": True}
    given: dict[str, Any] = {
        "path": str(folder / "photos"),
        "batch_size": 6,
        "num_workers": 0,
        "least_crop": 0.8,
    } | data
    callbacks = ["LoRACheckpoint", "MergeOnSave", "EarlyStoppingOnIoU", "ClassificationResults"]
    config = {
        "seed_everything": 1,
        "model": component("eomt.tasks.ImageClassification", lr=1e-2, network=network, lora_config=lora),
        "data": component("datamodules.ImageFolder", **given),
        "trainer": TRAINER | {"log_every_n_steps": 2, "callbacks": [f"callbacks.{name}" for name in callbacks]},
    }
    workspace = Workspace(folder)
    workspace.config.write_text(yaml.safe_dump(config))
    return workspace


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = classification(tmp_path_factory.mktemp("classification"))
    workspace.fit("run")
    workspace.run("test", "--run_name", "run", "--ckpt_path", "best")
    return workspace


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def nearest_mean_accuracy(workspace: Workspace, splits: dict[str, list[str]]) -> float:
    """The share of test images whose nearest mean of the training images' features, of the base alone, is their own."""
    encoder = make_vit(pretrained=str(workspace.folder / "base.safetensors")).eval()

    def features(split: str) -> tuple[torch.Tensor, list[str]]:
        images = [shown(read_pixels(workspace.folder / "photos" / name), (SIDE, SIDE)) for name in splits[split]]
        with torch.no_grad():
            found = encoder.tokens(torch.stack(images))[:, 0]
        return torch.nn.functional.normalize(found, dim=1), [name.split("/")[0] for name in splits[split]]

    known, classes = features("train")
    means = torch.stack([known[[name == color for name in classes]].mean(0) for color in sorted(COLORS)])
    asked, truth = features("test")
    nearest = (asked @ torch.nn.functional.normalize(means, dim=1).T).argmax(1)
    return sum(sorted(COLORS)[int(index)] == name for index, name in zip(nearest, truth, strict=True)) / len(truth)


def test_a_run_tells_classes_apart_and_stands_beside_its_rivals(trained: Workspace) -> None:
    run = trained.runs / "run"
    summary = json.loads((run / "training_summary.json").read_text())
    assert (summary["metric"], summary["best"] > summary["baseline"]) == ("val_f1", True)
    rows = [row for row in table(run / "metrics.csv") if row.get("val_f1")]
    assert len({row["val_class_mean_f1"] for row in rows}) == 1
    assert float(rows[0]["val_majority_accuracy"]) == pytest.approx(1 / 3, abs=0.01)
    assert {f"val_f1/{name}" for name in COLORS} <= rows[0].keys()
    assert only(run, "best_lora_step*_f1*_accuracy*.ckpt").is_file()
    # the linear head of a plain ViT is one of transformers'
    config = json.loads((only(run, "best_merged_*") / "config.json").read_text())
    assert config["architectures"] == ["ViTForImageClassification"]
    assert sorted(config["label2id"]) == sorted(COLORS)


def test_a_test_leaves_answers_a_confusion_matrix_and_a_page(trained: Workspace) -> None:
    run = trained.runs / "run"
    figures = json.loads(only(run / "results", "*_eval.json").read_text())["metrics"]
    answers = table(only(run / "results", "*_labels.csv"))
    splits = json.loads((run / "splits.json").read_text())
    assert sorted(row["name"] for row in answers) == sorted(splits["test"])
    right = [row["truth"] == row["label"] for row in answers]
    assert [int(row["right"]) for row in answers] == right
    assert figures["test_accuracy"] == pytest.approx(sum(right) / len(right))
    assert {"test_majority_f1", "test_f1/red"} <= figures.keys()
    assert figures["test_class_mean_accuracy"] == pytest.approx(nearest_mean_accuracy(trained, splits))
    matrix = table(only(run / "results", "*_confusion.csv"))
    counts = {(row["true image \\ prediction"], name): int(row[name]) for row in matrix for name in COLORS}
    assert all(
        counts[truth, label] == sum((row["truth"], row["label"]) == (truth, label) for row in answers)
        for truth, label in counts
    )
    page = (run / "report.html").read_text()
    assert "test images" in page
    assert "pixels of the test images" not in page
    assert "the most frequent class" in page


@pytest.mark.slow
def test_a_run_that_is_resumed_ends_where_it_would_have(trained: Workspace) -> None:
    mixed = ("--model.mixup", "0.4", "--model.cutmix", "1", "--data.balanced", "true")
    trained.fit("whole", *mixed)
    cut = ("--trainer.callbacks+", '{"class_path": "tests.cli_runs.PowerCut", "init_args": {"step": 6}}')
    with pytest.raises(RuntimeError, match="power cut"):
        trained.fit("cut", *mixed, *cut)
    trained.run("fit", "--run_name", "cut", "--ckpt_path", "latest", *mixed)
    ends = [only(trained.runs / name, "final_lora_step8.ckpt") for name in ("whole", "cut")]
    whole, resumed = (torch.load(path, weights_only=True)["state_dict"] for path in ends)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    # the rival was measured before the cut
    rows = [row for row in table(trained.runs / "cut" / "metrics.csv") if row.get("val_f1")]
    assert len({row["val_class_mean_f1"] for row in rows}) == 1


@pytest.mark.slow
def test_images_with_several_labels(tmp_path: Path) -> None:
    lines = ["path,warm,dark"]
    for number in range(30):
        color = sorted(COLORS)[number % 3]
        write_photo(tmp_path / f"{number}.png", color, number)
        lines.append(f"{number}.png,{int(color == 'red')},{int(color != 'green')}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    workspace = classification(tmp_path, path=str(tmp_path / "labels.csv"))
    run = workspace.fit("run", "--model.class_weights", "balanced")
    summary = json.loads((run / "training_summary.json").read_text())
    assert summary["metric"] == "val_map"
    rows = [row for row in table(run / "metrics.csv") if row.get("val_map")]
    assert {"val_map/warm", "val_map/dark", "val_constant_map", "val_exact_match"} <= rows[-1].keys()
    workspace.run("test", "--run_name", "run", "--ckpt_path", "best")
    assert not list((run / "results").glob("*_confusion.csv"))
    workspace.run("predict", "--run_name", "run", "--ckpt_path", "best", "--data.predict_path", str(tmp_path / "0.png"))
    (row,) = table(run / "predictions" / "predictions.csv")
    expected = [name for name in ("warm", "dark") if float(row[f"probability of {name}"]) >= 0.5]
    assert row["label"] == "|".join(expected)
    config = json.loads((only(run, "best_merged_*") / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(trained: Workspace) -> None:
    """The same images in each step, cropped alike: but for the order of sums it is the same run."""
    same = ("--model.lora_config.lora_dropout", "0", "--trainer.precision", "32-true", "--trainer.max_steps", "6")
    same += ("--model.class_weights", "[1.0, 2.0, 4.0]")
    states = []
    for ranks, batch_size in ((1, "6"), (2, "3")):
        name = f"twice_{ranks}"
        run_on_ranks(trained, "fit", "--run_name", name, "--data.batch_size", batch_size, *same, ranks=ranks)
        checkpoint = torch.load(only(trained.runs / name, "final_lora_step6.ckpt"), weights_only=True)
        states.append(checkpoint["state_dict"])
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=1e-5)


def test_inspect_says_classes_features_and_memory(trained: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    trained.run("inspect", "--model.lora_config.enabled", "false")
    said = capsys.readouterr().out
    assert "3 classes: blue, green, red" in said
    assert "encoder, cls" in said
    assert "memory: floor" in said


def test_mistakes_are_one_line(trained: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, trained, "fit", "--model.network.num_classes", "5")
    assert "num_classes: 5, but the data has 3 classes" in said
    said = refusal(capsys, trained, "fit", "--model.network.multi_label", "true")
    assert "multi_label: True, but the data has one class for each image" in said
    said = refusal(capsys, trained, "fit", "--data.path", str(trained.folder / "none"))
    assert "is neither a folder nor a CSV file" in said


def test_the_rival_is_measured_only_of_weights_that_hold_the_base() -> None:
    def held(**config: Any) -> bool:
        network = make_classifier()
        apply_lora(network, LoRAConfig(**({"rank": 2, "target_modules": ["attention"]} | config)))
        return holds_base(network)

    assert held(freeze_base_model=True, trainable_modules=["classifier"])
    assert held(freeze_base_model=True, enabled=False, trainable_modules=["classifier"])
    assert not held(freeze_base_model=False)
    assert not held(freeze_base_model=True, trainable_modules=["classifier", "patch_embed"])
    assert not held(freeze_base_model=True, init_lora_weights="pissa", backend="peft")
    # merged, or trained in full
    assert not holds_base(make_classifier())


def test_a_convolutional_network_is_trained_merged_opened_and_resumed(tmp_path: Path) -> None:
    workspace = classification(tmp_path)
    config = yaml.safe_load(workspace.config.read_text())
    torch.manual_seed(0)
    base = TimmEncoder("test_convnext", (32, 32), pretrained=False)
    save_file(base.model.state_dict(), tmp_path / "convnext.safetensors")
    encoder = component(
        "eomt.models.TimmEncoder",
        backbone_name="test_convnext",
        img_size=[32, 32],
        pretrained=str(tmp_path / "convnext.safetensors"),
    )
    config["model"]["init_args"]["network"]["init_args"] = {"encoder": encoder, "pooling": "cls+mean"}
    config["model"]["init_args"]["lora_config"]["target_modules"] = ["mlp"]
    workspace.config.write_text(yaml.safe_dump(config))
    run = workspace.fit("run")
    summary = json.loads((run / "training_summary.json").read_text())
    assert summary["adapted_modules"] == 18
    assert summary["merge_relative_diff"] < 1e-4
    photo = next((tmp_path / "photos" / "red").iterdir())
    merged = eomt.load(only(run, "best_merged_*")).predict(photo).probabilities
    adapted = eomt.load(only(run, "best_lora_step*.ckpt")).predict(photo).probabilities
    assert merged == pytest.approx(adapted, abs=1e-4)
    workspace.run("fit", "--ckpt_path", "latest", "--run_name", "run", "--trainer.max_steps", "12")
    assert json.loads((run / "training_summary.json").read_text())["steps"] == 12
