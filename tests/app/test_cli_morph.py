"""Morph detection from the command line: pre-train, adapt, test in three forms, predict, resume, refuse."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import ViTMAEModel

from callbacks.pictures.reconstructions import caption
from tests.cli_runs import Workspace, refusal
from tests.datamodules.faces.face_files import write_face, write_people, write_splits
from tests.ranks import run_on_ranks

SIZES: dict[str, Any] = {"img_size": [16, 16], "patch_size": 8, "hidden_size": 16, "depth": 2, "num_heads": 2}
DECODER: dict[str, Any] = {"decoder_depth": 1, "decoder_hidden_size": 16, "decoder_num_heads": 2}
TRAINER: dict[str, Any] = {"max_steps": 4, "val_check_interval": 2, "check_val_every_n_epoch": None}


def component(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


def write_config(workspace: Workspace, model: dict[str, Any], data: dict[str, Any], callbacks: list[Any]) -> None:
    trainer = TRAINER | {"log_every_n_steps": 2, "callbacks": ["callbacks.LoRACheckpoint", *callbacks]}
    workspace.config.write_text(yaml.safe_dump({"model": model, "data": data, "trainer": trainer}))


def pretraining(folder: Path) -> Workspace:
    """A config that pre-trains on eight faces."""
    for number in range(8):
        write_face(folder / "faces" / f"{number}.png", number)
    network = component("eomt.models.MaskedAutoencoder", pretrained=False, **SIZES, **DECODER)
    workspace = Workspace(folder)
    write_config(
        workspace,
        component("eomt.tasks.MaskedAutoencoding", base_lr=0.1, network=network),
        component("datamodules.FaceFolder", path=str(folder / "faces"), batch_size=2, num_workers=0, val_fraction=0.25),
        ["callbacks.EncoderOnSave", component("callbacks.ReconstructionPictures", num_samples=2)],
    )
    return workspace


def detection(folder: Path, encoder: Path) -> Workspace:
    """A config that adapts what pre-training left to twelve people."""
    write_splits(folder / "people")
    network = component(
        "eomt.models.MorphDetector", encoder=component("eomt.models.MAEEncoder", pretrained=str(encoder), **SIZES)
    )
    lora = {"rank": 2, "target_modules": ["query", "key", "value"], "freeze_base_model": True}
    lora["trainable_modules"] = ["classifier"]
    workspace = Workspace(folder)
    data = {"path": str(folder / "people"), "batch_size": 4, "num_workers": 0, "identity_pattern": r"id\d+"}
    write_config(
        workspace,
        component("eomt.tasks.MorphDetection", lr=1e-2, network=network, lora_config=lora),
        component("datamodules.MorphFaces", **data),
        [
            "callbacks.MergeOnSave",
            component("callbacks.EarlyStoppingOnIoU", monitor="val_eer", mode="min"),
            "callbacks.MorphResults",
        ],
    )
    return workspace


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = pretraining(tmp_path_factory.mktemp("pretraining"))
    workspace.fit("mae")
    return workspace


@pytest.fixture(scope="module")
def adapted(pretrained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = detection(tmp_path_factory.mktemp("detection"), pretrained.runs / "mae" / "encoder")
    workspace.fit("morph")
    return workspace


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "training_summary.json").read_text())


# -- pre-training ----------------------------------------------------------------------------------------------------


def test_pretraining_leaves_an_encoder_for_the_next_stage_and_pictures(pretrained: Workspace) -> None:
    run = pretrained.runs / "mae"
    assert summary(run)["best"] < summary(run)["baseline"]
    step = summary(run)["best_step"]
    assert only(run, f"best_lora_step{step}_loss*.ckpt").is_file()
    # the encoder is that of the best step
    state = torch.load(only(run, "best_lora_step*.ckpt"), weights_only=True)["state_dict"]
    encoder = ViTMAEModel.from_pretrained(run / "encoder").state_dict()
    shared = [name for name in encoder if f"network.model.vit.{name}" in state]
    assert len(shared) == len(encoder) - 1
    assert all(torch.equal(encoder[name], state[f"network.model.vit.{name}"]) for name in shared)
    assert sorted(path.name for path in (run / "pictures").iterdir()) == [
        f"val_step{step:06d}.png" for step in (0, 2, 4)
    ]
    text = (run / "training.log").read_text()
    assert "Learning rate: 0.000781 = base_lr 0.1 x batch 2 / 256" in text
    assert f"Encoder of the best step: {run / 'encoder'}" in text


def test_a_pretraining_that_is_resumed_ends_where_it_would_have(pretrained: Workspace) -> None:
    cut = ("--trainer.callbacks+", '{"class_path": "tests.cli_runs.PowerCut", "init_args": {"step": 2}}')
    with pytest.raises(RuntimeError, match="power cut"):
        pretrained.fit("cut", *cut)
    pretrained.run("fit", "--run_name", "cut", "--ckpt_path", "latest")
    ends = [pretrained.runs / name / "final_lora_step4.ckpt" for name in ("mae", "cut")]
    whole, resumed = (torch.load(path, weights_only=True)["state_dict"] for path in ends)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_mean_patch_stands_beside_the_loss(pretrained: Workspace) -> None:
    """15.19: and normalized patches, whose rest alone is predicted, are said to be no more in pictures."""
    rows = [row for row in table(pretrained.runs / "mae" / "metrics.csv") if row["val_loss"]]
    assert rows
    # one figure for all validations, for the images are the same
    assert len({row["val_loss_mean_patch"] for row in rows}) == 1
    assert 0 < float(rows[0]["val_loss_mean_patch"]) < 2
    assert "true mean and deviation are put back" in caption(norm_pix_loss=True)
    assert "put back" not in caption(norm_pix_loss=False)


def test_reconstructions_are_drawn_for_new_images(pretrained: Workspace) -> None:
    run = pretrained.runs / "mae"
    pretrained.run("predict", "--ckpt_path", str(only(run, "best_lora_step*.ckpt")))
    assert len(list((run / "predictions" / "reconstructions").glob("*.png"))) == 2


@pytest.mark.parametrize("ratio", ["0", "1", "1.5"])
def test_a_mask_ratio_that_cannot_be_is_refused(
    ratio: str, pretrained: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "mask_ratio" in refusal(capsys, pretrained, "fit", "--model.mask_ratio", ratio)


def test_pretraining_has_nothing_to_test(pretrained: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert "use validate" in refusal(capsys, pretrained, "test", "--audit.allow_random_base", "true")


# -- detection -------------------------------------------------------------------------------------------------------


def test_a_detector_adapts_what_pretraining_left(adapted: Workspace) -> None:
    found = summary(adapted.runs / "morph")
    assert (found["metric"], found["mode"]) == ("val_eer", "min")
    assert found["best"] <= found["baseline"]
    assert found["merge_relative_diff"] <= 1e-4
    assert "all 6 adapters act and learn" in found["audit"]
    assert "Baseline: sharpness and contrast alone" in (adapted.runs / "morph" / "training.log").read_text()


def test_three_forms_give_one_figure_and_one_threshold(adapted: Workspace) -> None:
    run = adapted.runs / "morph"
    forms = [only(run, "best_lora_step*.ckpt"), *(path for path in run.glob("best_*") if path.is_dir())]
    assert len(forms) == 3
    found, scores = [], []
    for form in forms:
        shutil.rmtree(run / "results", ignore_errors=True)
        adapted.run("test", "--ckpt_path", str(form), config=False)
        figures = json.loads(only(run / "results", "*_eval.json").read_text())["metrics"]
        found.append({name: value for name, value in figures.items() if value is not None})
        rows = table(only(run / "results", "*_scores.csv"))
        scores.append([float(row["score"]) for row in rows])
        assert len(list((run / "results").glob("*.png"))) == 2
    page = (run / "report.html").read_text()
    assert "Attacks and data sets" in page
    assert "called morph" in page or "called bona fide" in page
    assert found[0]["test_threshold"] is not None
    # bf16 and fp32 alike: merging rounds the last digits of a score
    for other in (1, 2):
        assert found[other] == pytest.approx(found[0], abs=1e-5)
        assert scores[other] == pytest.approx(scores[0], abs=1e-5)
    # 15.19: hand-made baselines for the set and each attack, with intervals
    for baseline in ("sharpness", "texture"):
        for part in ("", "/people", "/people/blend", "/people/warp"):
            assert {f"test_eer_{baseline}{end}{part}" for end in ("", "_low", "_high")} <= set(found[0])
    named = {"name", "attack", "label", "score"}
    assert named <= set(rows[0])
    assert {(row["attack"], row["label"]) for row in rows} == {("", "0"), ("blend", "1"), ("warp", "1")}
    macer = sum(row["label"] == "1" and float(row["score"]) < found[0]["test_threshold"] for row in rows) / 8
    assert found[0]["test_macer"] == pytest.approx(macer)
    assert {"test_eer/people/blend", "test_eer_average", "test_eer_worst", "test_eer_low"} <= set(found[0])


def draw_ramp(file: Path, number: int) -> None:
    """Write a picture from dark to light, which is neither even nor noise."""
    file.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 250 - 10 * number, 48, dtype=np.uint8)
    Image.fromarray(np.broadcast_to(ramp[:, None, None], (48, 48, 3)).copy()).save(file)


def test_a_folder_is_predicted_with_decisions_and_attention(adapted: Workspace, tmp_path: Path) -> None:
    for number in range(3):
        draw_ramp(tmp_path / "new" / f"{number}.png", number)
    Image.new("RGB", (48, 48)).save(tmp_path / "new" / "black.png")
    run = adapted.runs / "morph"
    shutil.rmtree(run / "predictions", ignore_errors=True)
    merged = only(run, "best_merged_*")
    arguments = ["--data.predict_path", str(tmp_path / "new"), "--model.rollout", "true"]
    adapted.run("predict", "--ckpt_path", str(merged), *arguments, config=False)
    rows = table(run / "predictions" / "predictions.csv")
    assert [row["file"] for row in rows] == ["0.png", "1.png", "2.png", "black.png"]
    checkpoint = torch.load(only(run, "best_lora_step*.ckpt"), weights_only=True)
    threshold = float(checkpoint["state_dict"]["network.threshold"])
    # 15.20: nothing to see is no morph
    assert [row["decision"] for row in rows[3:]] == ["failed to process"]
    for row in rows[:3]:
        assert row["decision"] == ("morph" if float(row["score"]) >= threshold else "bonafide")
    assert len(list((run / "predictions" / "rollout").glob("*.png"))) == 4


def test_a_base_that_nobody_validated_has_no_threshold(adapted: Workspace) -> None:
    random = ("--audit.allow_random_base", "true")
    adapted.run("test", "--run_name", "base", "--trainer.callbacks.sharpness", "false", *random)
    figures = json.loads(only(adapted.runs / "base" / "results", "*_eval.json").read_text())["metrics"]
    assert figures["test_accuracy"] is None
    assert figures["test_eer"] is not None


def test_a_fit_goes_on_from_its_checkpoint(adapted: Workspace) -> None:
    adapted.fit("again", "--trainer.max_steps", "2")
    adapted.run("fit", "--run_name", "again", "--ckpt_path", "latest")
    whole, resumed = (
        torch.load(only(adapted.runs / name, "final_lora_step4.ckpt"), weights_only=True) for name in ("morph", "again")
    )
    assert resumed["global_step"] == 4
    assert set(whole["state_dict"]) == set(resumed["state_dict"])


def test_two_processes_draw_masks_of_their_own_and_measure_what_one_does(pretrained: Workspace) -> None:
    """16.10: both ranks drew the same masks and dropout, and step 0 was 1.0280 or 1.0288, by the size of a batch."""
    half = ("--data.val_fraction", "0.5", "--trainer.precision", "32-true", "--trainer.max_steps", "2")
    baselines = []
    for name, ranks, batch_size in (("alone", 1, "4"), ("ones", 1, "1"), ("pair", 2, "1")):
        run_on_ranks(pretrained, "fit", "--run_name", name, "--data.eval_batch_size", batch_size, *half, ranks=ranks)
        baselines.append(summary(pretrained.runs / name)["baseline"])
    assert baselines[1:] == pytest.approx([baselines[0]] * 2, rel=1e-6)
    checkpoint = torch.load(only(pretrained.runs / "pair", "latest_lora_step2.ckpt"), weights_only=True)
    (states,) = (state["random"] for state in checkpoint["callbacks"].values() if "random" in state)
    assert len(states) == 2
    assert not torch.equal(states[0]["torch"], states[1]["torch"])


def test_two_processes_write_the_scores_and_figures_of_one(adapted: Workspace) -> None:
    run = adapted.runs / "morph"
    best = str(only(run, "best_lora_step*.ckpt"))
    # batches of three: the last one of a rank is padded
    batch = ("--data.eval_batch_size", "3", "--trainer.precision", "32-true")
    figures, tables = [], []
    for ranks in (1, 2):
        shutil.rmtree(run / "results", ignore_errors=True)
        run_on_ranks(adapted, "test", "--ckpt_path", best, *batch, ranks=ranks)
        found = json.loads(only(run / "results", "*_eval.json").read_text())["metrics"]
        figures.append({name: value for name, value in found.items() if value is not None})
        tables.append(table(only(run / "results", "*_scores.csv")))
    assert figures[1] == pytest.approx(figures[0], abs=1e-6)
    assert [row["name"] for row in tables[1]] == [row["name"] for row in tables[0]]
    scores = [[float(row["score"]) for row in rows] for rows in tables]
    assert scores[1] == pytest.approx(scores[0], abs=1e-6)


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(adapted: Workspace) -> None:
    """The same faces in each step, changed alike, weighed alike: but for the order of sums it is the same run."""
    same = ("--model.lora_config.lora_dropout", "0", "--trainer.precision", "32-true", "--trainer.max_steps", "6")
    same += ("--data.balanced", "true", "--model.class_weights", "[1.0, 2.0]")
    states = []
    for ranks, batch_size in ((1, "4"), (2, "2")):
        name = f"twice_{ranks}"
        run_on_ranks(adapted, "fit", "--run_name", name, "--data.batch_size", batch_size, *same, ranks=ranks)
        checkpoint = torch.load(only(adapted.runs / name, "final_lora_step6.ckpt"), weights_only=True)
        states.append(checkpoint["state_dict"])
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=1e-5, equal_nan=True)


def test_a_validation_of_one_class_stops_before_the_first_step(
    adapted: Workspace, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """15.18: step 0 was nan, and the error came after the first epoch."""
    few = ("--trainer.limit_val_batches", "1", "--data.eval_batch_size", "1", "--run_name", "one_class")
    assert "0 morphs; it needs both: give more images" in refusal(capsys, adapted, "fit", *few)
    assert "Stopped at step 0 by UserError" in caplog.text
    assert not list((adapted.runs / "one_class").glob("*.ckpt"))


def write_leak(folder: Path) -> Path:
    """A table in which person 1 is in training and in validation."""
    write_people(folder / "set", range(6))
    lines = ["path,label,subject_a,split"]
    for person in range(6):
        split = ("train", "val", "test")[person // 2]
        lines += [f"set/bonafide/id{person:03d}_0.png,bonafide,{person},{split}"]
        lines += [f"set/morph/blend/id{person:03d}_id{(person + 1) % 6:03d}.png,morph,{person},{split}"]
    lines += ["set/bonafide/id001_1.png,bonafide,1,val"]
    (folder / "leak.csv").write_text("\n".join(lines) + "\n")
    return folder / "leak.csv"


def test_a_leaking_table_is_refused(adapted: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leak = write_leak(tmp_path)
    message = refusal(capsys, adapted, "fit", "--data.path", str(leak), "--data.identity_pattern", "null")
    assert "train" in message
    assert "val" in message
    assert not (adapted.runs / "leak").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.loss", "cosface"], "set --model.network.head cosine"),
        (["--model.class_weights", "[1, -1]"], "class_weights"),
        (["--model.network.encoder.hidden_size", "32"], "does not fit"),
        (["--model.network.encoder.pretrained", "nowhere"], "is no folder"),
        (["--trainer.callbacks+", "callbacks.EncoderOnSave"], "EncoderOnSave is for"),
    ],
)
def test_what_does_not_fit_is_refused(
    arguments: list[str], message: str, adapted: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(capsys, adapted, "fit", *arguments)
