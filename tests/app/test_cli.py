"""The command line from end to end, on tiny data."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from callbacks.run import metrics_file
from eomt.app.runs import RunConfiguration, create_run_folder, resolve_alias
from eomt.cli import main
from eomt.errors import UserError
from tests.cli_runs import Workspace, make_workspace, refusal, write_images


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def run(workspace: Workspace) -> Path:
    return workspace.fit("first")


def summary(run: Path) -> dict:
    return json.loads((run / "training_summary.json").read_text())


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def best(run: Path) -> Path:
    return next(run.glob("best_lora_*.ckpt"))


def test_a_run_s_folder_holds_what_the_design_names(run: Path) -> None:
    step, score = summary(run)["best_step"], summary(run)["best"]
    names = {path.name for path in run.iterdir()}
    assert best(run).name.startswith(f"best_lora_step{step}_iou{score:.4f}_dice")
    stem = best(run).stem
    assert names == {
        "config.yaml",
        f"{stem}.ckpt",
        stem,
        stem.replace("lora", "merged"),
        "latest_lora_step8.ckpt",
        "final_lora_step8.ckpt",
        "metrics.csv",
        "timing.csv",
        "training.log",
        "training_summary.json",
        "pictures",
    }
    files = {"adapter_config.json", "adapter_model.safetensors"}
    # the timm model's own part, which plain timm and PEFT open
    assert {path.name for path in (run / stem).iterdir()} == files | {"encoder.backbone"}
    assert {path.name for path in (run / stem / "encoder.backbone").iterdir()} == files


def test_the_summary_has_its_fields(run: Path) -> None:
    found = summary(run)
    assert found["task"] == "SemanticSegmentation"
    assert (found["metric"], found["mode"]) == ("val_iou", "max")
    assert found["best"] > found["baseline"]
    assert found["best_step"] in (4, 8)
    assert found["merge_relative_diff"] <= 1e-4
    assert found["adapter_bytes"] == (run / best(run).stem / "adapter_model.safetensors").stat().st_size
    assert "24 adapters act and learn" in found["audit"]
    assert found["base"]["id"].endswith("base")
    assert found["seed"] == 42


def test_step_0_is_a_row_like_any_other(run: Path) -> None:
    steps = [int(row["step"]) for row in rows(run)]
    assert steps == [0, 2, 4, 6, 8]
    assert float(rows(run)[0]["val_iou"]) == pytest.approx(summary(run)["baseline"])
    assert rows(run)[1]["train_loss"]
    assert rows(run)[1]["lr"]


def test_checkpoints_hold_no_frozen_weight_and_load_safely(run: Path) -> None:
    state = torch.load(best(run), weights_only=True)["state_dict"]
    kinds = {name.rpartition(".")[2] if "lora" in name else name for name in state}
    assert kinds == {
        "lora_a",
        "lora_b",
        "network.class_head.weight",
        "network.class_head.bias",
        "network.attn_mask_probs",
    }


def measured(capsys: pytest.CaptureFixture[str], command: str) -> dict[str, float]:
    """Figures in Lightning's table."""
    table = {}
    for line in capsys.readouterr().out.splitlines():
        cells = [cell.strip() for cell in line.strip("│ ").split("│")]
        if len(cells) == 2 and cells[0].startswith(("val_", "test_")):
            table[cells[0]] = float(cells[1])
    assert table, command
    return table


@pytest.mark.parametrize("command", ["validate", "test"])
def test_checkpoint_adapter_and_merged_folder_alone_give_one_metric(
    workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    figures = []
    for path in (best(run), best(run).with_suffix(""), run / best(run).stem.replace("lora", "merged")):
        capsys.readouterr()
        workspace.run(command, "--ckpt_path", str(path), config=False)
        figures.append(measured(capsys, command))
    if command == "validate":
        assert figures[0]["val_iou"] == pytest.approx(summary(run)["best"])
    else:
        results = sorted((run / "results").glob("*_eval.json"))
        assert json.loads(results[0].read_text())["metrics"]["test_iou"] == pytest.approx(figures[0]["test_iou"])
    for other in figures[1:]:
        assert other == pytest.approx(figures[0], rel=1e-4)


def test_predict_writes_masks(workspace: Workspace, run: Path) -> None:
    workspace.run("predict", "--ckpt_path", "best", "--run_name", "first")
    assert len(list((run / "predictions" / "masks").glob("0?.png"))) == 2


def test_base_alone_is_measured_at_step_0_s_figure(
    workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    workspace.run("validate", "--model.lora_config", "null")
    assert measured(capsys, "validate")["val_iou"] == pytest.approx(summary(run)["baseline"])


def test_resume_at_an_epoch_boundary_is_bit_exact_and_keeps_the_rows(workspace: Workspace, run: Path) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        workspace.fit("cut", "--trainer.callbacks+", "tests.cli_runs.PowerCut")
    cut = workspace.runs / "cut"
    assert (cut / "latest_lora_step4.ckpt").is_file()
    assert summary(cut)["steps"] == 4
    workspace.run("fit", "--run_name", "cut", "--ckpt_path", "latest")
    assert not (cut / "latest_lora_step4.ckpt").exists()
    whole = torch.load(run / "final_lora_step8.ckpt", weights_only=True)["state_dict"]
    resumed = torch.load(cut / "final_lora_step8.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert rows(cut) == rows(run)
    assert summary(cut)["baseline"] == summary(run)["baseline"]


@pytest.mark.parametrize("num_workers", ["0", "1"])
def test_resume_inside_an_epoch_is_bit_exact(workspace: Workspace, num_workers: str) -> None:
    inside = ("--data.num_workers", num_workers)
    inside += ("--trainer.val_check_interval", "3", "--trainer.check_val_every_n_epoch", "null")
    whole = workspace.fit(f"whole{num_workers}", *inside)
    cut = ("--trainer.callbacks+", '{"class_path": "tests.cli_runs.PowerCut", "init_args": {"step": 6}}')
    with pytest.raises(RuntimeError, match="power cut"):
        workspace.fit(f"inside{num_workers}", *inside, *cut)
    resumed = workspace.fit(f"inside{num_workers}", *inside, "--ckpt_path", "latest")
    states = [torch.load(run / "final_lora_step8.ckpt", weights_only=True)["state_dict"] for run in (whole, resumed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert rows(whole) == rows(resumed)


def test_settings_of_the_command_line_count_on_resume(workspace: Workspace) -> None:
    workspace.fit("rates", "--model.lr", "1e-8", "--trainer.max_epochs", "1")
    changed = ("--model.lr", "1e-2", "--model.head_lr", "1e-3", "--trainer.log_every_n_steps", "1")
    run = workspace.fit("rates", "--ckpt_path", "latest", *changed)
    rates = {int(row["step"]): float(row["lr"]) for row in rows(run) if row["lr"]}
    assert max(rates[2], rates[4]) <= 1e-8
    assert min(rates[step] for step in (5, 6, 7)) > 1e-4
    assert (run / "config_before_step4.yaml").is_file()


def test_a_copied_run_goes_on_by_itself(workspace: Workspace) -> None:
    original = workspace.fit("original", "--trainer.max_epochs", "1")
    before = sorted(path.name for path in original.rglob("*"))
    shutil.copytree(original, workspace.runs / "copy")
    copy = workspace.fit("copy", "--ckpt_path", "latest")
    assert sorted(path.name for path in original.rglob("*")) == before
    assert len(list(copy.glob("best_lora_*.ckpt"))) == 1
    assert len(list(copy.glob("best_merged_*"))) == 1


def test_one_best_stays_where_the_folder_of_runs_is_relative(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.folder)
    for args in (("--trainer.max_epochs", "1"), ("--ckpt_path", "latest")):
        main(["fit", "--config", "tiny.yaml", "--run_name", "relative", *args])
    run = workspace.folder / "runs" / "relative"
    assert len(list(run.glob("best_lora_*.ckpt"))) == 1
    assert len(list(run.glob("best_merged_*"))) == 1
    assert len(list(run.glob("final_lora_*.ckpt"))) == 1


def test_a_diverged_network_is_neither_best_nor_merged(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("--run_name", "diverged", "--model.lr", "1e12", "--trainer.max_epochs", "3")
    error = refusal(capsys, workspace, "fit", *args)
    assert "not finite at step 2 (rate 1.0e+12): the training diverged; lower --model.lr" in error
    run = workspace.runs / "diverged"
    assert [path.name[:15] for path in run.glob("best_lora_*.ckpt")] == ["best_lora_step0"]
    assert [path.name[:17] for path in run.glob("best_merged_*")] == ["best_merged_step0"]


def test_the_newest_run_is_found_without_a_config(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.run("fit", "--trainer.max_epochs", "1")
    made_up = max(workspace.runs.glob("tiny_r4_a8_lr3e-3_*"))
    workspace.run("test", "--ckpt_path", "best", config=False)
    assert len(list((made_up / "results").glob("*_eval.json"))) == 1
    (made_up / best(made_up).name).unlink()
    assert "there is no best_lora_step*.ckpt" in refusal(capsys, workspace, "test", "--ckpt_path", "best")


def test_the_base_is_not_measured_into_a_run(
    workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "add --ckpt_path best" in refusal(capsys, workspace, "test", "--run_name", "first")


def test_a_seeded_split_stays_what_it_was(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    flat = workspace.folder / "flat"
    write_images(flat, 20, 5)
    run = workspace.fit("split", "--data.path", str(flat), "--trainer.max_epochs", "1")
    record = json.loads((run / "splits.json").read_text())
    for index in (3, 4, 5):
        for kind in ("images", "masks"):
            shutil.copy(flat / kind / "00.png", flat / kind / f"x{index}.png")
    for args in (("test", "--ckpt_path", str(best(run))), ("fit", "--ckpt_path", "latest", "--run_name", "split")):
        workspace.run(*args, config=False)
        assert "3 images on disk are in no split and left out (x3.png" in capsys.readouterr().out
    assert json.loads((run / "splits.json").read_text()) == record
    # other data have a split of their own
    write_images(workspace.folder / "other", 12, 6)
    workspace.run("test", "--ckpt_path", str(best(run)), "--data.path", str(workspace.folder / "other"), config=False)
    (flat / "images" / f"{record['test'][0]}").unlink()
    (flat / "masks" / f"{record['test'][0]}").unlink()
    assert "is not on disk" in refusal(capsys, workspace, "test", "--ckpt_path", str(best(run)), config=False)


def test_a_merged_folder_predicts_without_the_data(workspace: Workspace, run: Path, tmp_path: Path) -> None:
    merged = tmp_path / "model"
    shutil.copytree(next(run.glob("best_merged_*")), merged)
    gone = ("--data.path", str(tmp_path / "gone"), "--trainer.default_root_dir", str(tmp_path / "runs"))
    images = ("--data.predict_path", str(workspace.folder / "data" / "val" / "images"))
    main(["predict", "--ckpt_path", str(merged), *gone, *images])
    assert len(list(tmp_path.glob("runs/*/predictions/masks/*.png"))) == 3


def test_two_runs_of_one_second_get_two_folders(tmp_path: Path) -> None:
    assert create_run_folder(tmp_path / "run", is_generated=True) == tmp_path / "run"
    assert create_run_folder(tmp_path / "run", is_generated=True) == tmp_path / "run_2"
    with pytest.raises(UserError, match="exists"):
        create_run_folder(tmp_path / "run", is_generated=False)


def test_a_run_is_never_written_over(workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert "exists" in refusal(capsys, workspace, "fit", "--run_name", "first")
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_nothing_to_train_is_said_and_leaves_nothing(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    args = ("--model.lora_config.enabled", "false", "--model.lora_config.trainable_modules", "[]")
    assert "nothing to train" in refusal(capsys, workspace, "fit", "--run_name", "nothing", *args)
    assert not (workspace.runs / "nothing").exists()


def test_a_run_that_never_beats_its_baseline_says_so(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    run = workspace.fit("zero", "--model.lr", "1e-8")
    assert summary(run)["best"] == summary(run)["baseline"]
    assert summary(run)["best_step"] == 0
    assert "never beat step 0" in capsys.readouterr().out


def test_command_line_beats_the_checkpoint(workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refusal(
        capsys,
        workspace,
        *("validate", "--ckpt_path", str(best(run)), "--model.lora_config.rank", "2"),
        config=False,
    )
    assert "has [rank, alpha, slices] [4, 8.0, []] in the checkpoint, [2, 8.0, []] in lora_config" in error


def test_config_is_saved_resolved_and_runs_again(workspace: Workspace, run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["network"]["init_args"]["num_classes"] == 3
    assert config["data"]["init_args"]["crop_size"] == [32, 48]
    assert config["trainer"]["default_root_dir"] == str(workspace.runs)


def test_full_fine_tuning_has_no_adapter_folder_and_a_merged_one(workspace: Workspace) -> None:
    run = workspace.fit("full", "--model.lora_config", "null")
    assert summary(run)["trainable_parameters"] == summary(run)["total_parameters"]
    assert not [path for path in run.glob("best_lora_*") if path.is_dir()]
    assert list(run.glob("best_merged_*/model.safetensors"))


def test_unfrozen_base_says_why_there_is_no_adapter_folder(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    run = workspace.fit("unfrozen", "--model.lora_config.freeze_base_model", "false")
    assert not [path for path in run.glob("best_lora_*") if path.is_dir()]
    assert "no adapter folder" in (run / "training.log").read_text()


@pytest.mark.parametrize("content", [b"", b"text", None], ids=["empty", "text", "truncated"])
def test_a_damaged_checkpoint_is_refused(
    workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "damaged.ckpt"
    path.write_bytes(best(run).read_bytes()[:1000] if content is None else content)
    assert "no checkpoint that can be read" in refusal(capsys, workspace, "fit", "--ckpt_path", str(path))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--ckpt_path", "nowhere.ckpt"), "nowhere.ckpt does not exist"),
        (("--ckpt_path", "latest", "--run_name", "other"), "other does not exist; give the name of a run"),
        (("--model.network.num_classes", "7"), "num_classes: 7, but the data has 3"),
        (("--model.lora_config.rank", "0"), "rank: 0; must be"),
        (("--model.lora_config.rnak", "4"), "rnak"),
        (("--model.lora_config.target_modules", "[attention, mpl]"), "'mpl' matches no module; nearest: mlp"),
        (("--model.lora_config.rank", "4000"), "rank: 4000 is above"),
        (("--data.path", "nowhere"), "nowhere"),
        (("--model.lr", "-1"), "lr: -1"),
        (("--model.network.encoder.backbone_name", "vit_tiny"), "no timm model"),
        (("--trainer.accelerator", "gpu"), "trainer: "),
        (("--trainer.devices", "0"), "trainer: "),
        (("--trainer.strategy", "foo"), "trainer: "),
        (("--trainer.val_check_interval", "200"), "trainer: `val_check_interval`"),
        (("--trainer.num_sanity_val_steps", "1"), "num_sanity_val_steps: 1"),
        (("--data.num_workers", "-1"), "num_workers: -1"),
        (
            ("--trainer.val_check_interval", "3", "--trainer.check_val_every_n_epoch", "null")
            + ("--trainer.accumulate_grad_batches", "2"),
            "val_check_interval: 3 batches end inside a step of 2 (accumulate_grad_batches); 6 would do",
        ),
        (("--data.batch_size", "9"), "batch_size: 9"),
        (("--model.num_points", "0"), "num_points"),
        # 15.32: the data's crop_size was named, which is filled in
        (("--model.network.encoder.img_size", "[-32, 48]"), "model.network.encoder.img_size: [-32, 48]; must be at"),
        (("--run_name", "../../escape"), "is no plain name"),
        (("--run_name", "x" * 300), "is no plain name"),
        (("--ckpt_path", __file__), "is no .ckpt file"),
        (("--model.network", "torch.nn.Identity"), "EoMT"),
        (("--data", "datamodules.ImageMaskFoldre"), "ImageMaskFoldre"),
        (("--trainer.default_root_dir", __file__), "default_root_dir"),
    ],
)
def test_mistakes_are_one_line(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], message: str
) -> None:
    before = sorted(workspace.runs.glob("*"))
    assert message in refusal(capsys, workspace, "fit", *args)
    assert sorted(workspace.runs.glob("*")) == before


def test_a_linear_probe_trains_the_named_heads_only(workspace: Workspace) -> None:
    run = workspace.fit("probe", "--model.lora_config.enabled", "false", "--trainer.max_epochs", "1")
    assert summary(run)["lora_parameters"] == 0
    # class_head: 64 -> 3 + 1
    assert summary(run)["trainable_parameters"] == 64 * 4 + 4
    assert summary(run)["audit"] == "1 modules trained in full learn (class_head)"


def test_a_dry_run_leaves_no_folder(workspace: Workspace) -> None:
    workspace.run("fit", "--run_name", "dry", "--trainer.fast_dev_run", "true")
    assert not (workspace.runs / "dry").exists()


def test_one_batch_can_be_overfitted(workspace: Workspace) -> None:
    run = workspace.fit("overfit", "--trainer.overfit_batches", "1", "--trainer.max_epochs", "3")
    assert summary(run)["steps"] == 3


def test_metrics_are_on_disk_as_they_are_logged(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """15 G: whoever follows a run sees figures before its first validation."""
    monkeypatch.setattr(metrics_file, "PAUSE", 0)
    follower = ("--trainer.callbacks+", "tests.cli_runs.Follower")
    seldom = ("--trainer.max_steps", "8", "--trainer.val_check_interval", "8", "--trainer.num_sanity_val_steps", "0")
    run = workspace.fit("followed", *seldom, "--trainer.check_val_every_n_epoch", "null", *follower)
    seen = dict(line.split() for line in (run / "followed.txt").read_text().splitlines())
    assert [seen[step] for step in "246"] == ["2", "3", "4"]


def test_a_run_may_be_limited_by_time_alone(workspace: Workspace) -> None:
    """15 G: learning rate and masked attention then follow the clock."""
    limit = ("--trainer.max_epochs", "-1", "--trainer.max_steps", "-1", "--trainer.max_time", "00:00:00:03")
    masked = ("--model.network.masked_attn_enabled", "true")
    run = workspace.fit("timed", *limit, *masked, "--trainer.log_every_n_steps", "1")
    rates = [float(row["lr"]) for row in rows(run) if row["lr"]]
    assert max(rates) > 2e-3
    assert rates[-1] < 0.2 * max(rates)
    assert summary(run)["steps"] == len(rates)


def test_a_run_without_an_end_is_refused(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    endless = ("--trainer.max_epochs", "-1", "--trainer.max_steps", "-1")
    assert "neither max_epochs nor max_time" in refusal(capsys, workspace, "fit", "--run_name", "endless", *endless)


def test_options_win_wherever_they_stand(workspace: Workspace, run: Path) -> None:
    """15.5: `--config` behind them set them back, `--ckpt_path` too: the unadapted network was measured."""
    places = ["--trainer.default_root_dir", str(workspace.runs)]
    main(["fit", "--run_name", "before", "--trainer.max_epochs", "1", *places, "--config", str(workspace.config)])
    assert summary(workspace.runs / "before")["steps"] == 4
    before = set((run / "results").glob("*")) if (run / "results").is_dir() else set()
    main(["test", "--ckpt_path", str(best(run)), f"--config={run / 'config.yaml'}"])
    (result,) = set((run / "results").glob("*_eval.json")) - before
    assert json.loads(result.read_text())["weights"] == str(best(run))


def test_the_newest_run_is_found_whatever_its_name(workspace: Workspace, tmp_path: Path) -> None:
    """A name of the user's own, or a folder that was renamed or copied, hides no run."""
    places = ("--trainer.default_root_dir", str(tmp_path), "--trainer.max_epochs", "1")
    workspace.run("fit", *places)
    workspace.run("fit", *places, "--run_name", "mine")
    for config in (True, False):
        assert newest_run_of(tmp_path, config) == "mine"
    (tmp_path / "mine").rename(tmp_path / "a_name")
    assert newest_run_of(tmp_path, True) == "a_name"


def newest_run_of(root: Path, with_config: bool) -> str:
    classes = ("eomt.tasks.SemanticSegmentation", "datamodules.ImageMaskFolder")
    known = RunConfiguration("tiny", classes) if with_config else None
    return resolve_alias("best", root, None, known).parent.name


def test_a_run_of_other_data_is_not_taken_for_a_run_of_the_config(workspace: Workspace, tmp_path: Path) -> None:
    workspace.run("fit", "--trainer.default_root_dir", str(tmp_path), "--run_name", "mine", "--trainer.max_epochs", "1")
    other = RunConfiguration("tiny", ("eomt.tasks.SemanticSegmentation", "datamodules.Cityscapes"))
    with pytest.raises(UserError, match=r"no run of tiny in .*; give --run_name, for example mine"):
        resolve_alias("best", tmp_path, None, other)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_random_head_answers_nothing(workspace: Workspace, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """15.10: what is neither trained nor loaded is refused as in fit, unless a smoke test says so."""
    new = ("--model.network.pretrained", "false", "--run_name", f"chance_{command}")
    line = refusal(capsys, workspace, command, *new)
    assert "ckpt_path: null, and 'encoder.backbone.cls_token' is random" in line
    assert not (workspace.runs / f"chance_{command}").exists()
    capsys.readouterr()
    workspace.run(command, *new, "--audit.allow_random_base", "true")
    # measuring the base is what a validate or a test without a checkpoint is for
    assert ("ckpt_path: null, so these are answers of the base" in capsys.readouterr().out) == (command == "predict")


STOPPING = [
    "callbacks.LoRACheckpoint",
    {"class_path": "callbacks.EarlyStoppingOnIoU", "init_args": {"patience": 1, "min_delta": 1.0}},
]


def test_a_run_that_stops_early_says_so(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    """15.12: in log, table and summary; no step of this run gains a whole IoU."""
    run = workspace.fit("stopped", "--trainer.callbacks", json.dumps(STOPPING), "--trainer.max_epochs", "4")
    assert summary(run)["steps"] == 8
    reason = "at step 8: Monitored metric val_iou did not improve in the last 1 records. Best score: "
    assert summary(run)["stopped_early"].startswith(reason)
    assert f"Stopped early, {reason}" in (run / "training.log").read_text()
    assert "stopped early" in capsys.readouterr().out
    assert summary(workspace.fit("whole", "--trainer.max_epochs", "1"))["stopped_early"] is None


def test_a_training_never_goes_on_with_another_split(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """16: the record stayed, and `test` measured images that had been trained on."""
    for name, count in (("one", 8), ("two", 9)):
        write_images(tmp_path / name, count, 0)
    run = workspace.fit("own_split", "--data.path", str(tmp_path / "one"), "--trainer.max_epochs", "1")
    latest = ("--ckpt_path", str(next(run.glob("latest_*"))), "--data.path", str(tmp_path / "two"))
    assert "images of its test would be trained on" in refusal(capsys, workspace, "fit", *latest)
    workspace.run("validate", *latest)


@pytest.mark.parametrize(("least", "steps"), [({"min_epochs": "3"}, 12), ({"min_steps": "10"}, 10)])
def test_early_stopping_waits_for_the_least_length_of_a_run(
    workspace: Workspace, least: dict[str, str], steps: int
) -> None:
    """15.12: a request of an earlier step is not kept for later: it was decided too early."""
    ((name, value),) = least.items()
    more = ("--trainer.max_epochs", "4", f"--trainer.{name}", value)
    callbacks = [STOPPING[0], {"class_path": "tests.cli_runs.StopsOnce"}]
    run = workspace.fit(f"waits_{name}", "--trainer.callbacks", json.dumps(STOPPING), *more)
    assert steps <= summary(run)["steps"] <= 16
    run = workspace.fit(f"forgets_{name}", "--trainer.callbacks", json.dumps(callbacks), *more)
    assert summary(run)["steps"] == 16


@pytest.mark.parametrize("name", ["EMAWeightAveraging", "StochasticWeightAveraging"])
def test_averaged_weights_are_refused_by_name(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """15.8: the file would be named after figures of other weights."""
    averaging = {"class_path": f"lightning.pytorch.callbacks.{name}"}
    averaging |= {"init_args": {"swa_lrs": 1e-3}} if name.startswith("Sto") else {}
    line = refusal(capsys, workspace, "fit", "--trainer.callbacks", json.dumps([averaging]))
    assert f"trainer.callbacks: {name} measures averaged weights" in line
