"""15.5: what is given on the command line counts wherever it stands, or is refused."""

import shutil
from pathlib import Path

import pytest
import yaml

from datamodules import RoadAnomaly
from eomt.app.arguments import in_order, option_value, without_other_data
from eomt.app.trust import with_saved_config
from eomt.cli import CLI
from tests.cli_runs import Workspace, make_workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = make_workspace(tmp_path_factory.mktemp("arguments"))
    made.fit("first")
    return made


@pytest.mark.parametrize(
    ("given", "ordered"),
    [
        ("fit --a 1 --config x", "fit --config x --a 1"),
        ("--seed_everything 7 fit --config=x", "fit --config=x --seed_everything 7"),
        ("fit --a 1 -cx", "fit -c x --a 1"),
        ("--run_name fit fit -c x", "fit -c x --run_name fit"),
        ("fit --trainer.max_steps 1 --trainer t.yaml", "fit --trainer t.yaml --trainer.max_steps 1"),
        (
            "fit --m.lora_config.rank=2 --m.lr 1 --m.lora_config l.yaml",
            "fit --m.lora_config l.yaml --m.lora_config.rank=2 --m.lr 1",
        ),
        # callbacks are added one after another, each with its own options
        ("fit --t.c+=A --t.c.x=1 --t.c+=B --t.c.x=2", "fit --t.c+=A --t.c.x=1 --t.c+=B --t.c.x=2"),
        ("fit --t.c=A --t.c.x=1 --t.c=B", "fit --t.c=A --t.c.x=1 --t.c=B"),
        ("fit --model.lr -1e-3 --model.x -.5", "fit --model.lr=-1e-3 --model.x=-.5"),
        ("--help", "--help"),
        ("fit --print_config --config x", "fit --config x --print_config"),
        ("", ""),
    ],
)
def test_the_order_of_arguments(given: str, ordered: str) -> None:
    assert in_order(given.split()) == ordered.split()


def test_the_last_of_equal_options_counts() -> None:
    assert option_value(["fit", "--ckpt_path", "a", "--x=1", "--ckpt_path=b"], "--ckpt_path") == "b"
    assert option_value(["fit", "-c", "a"], "--config", "-c") == "a"
    assert option_value(["fit", "--flag", "--config", "a"], "--flag") is None


@pytest.mark.parametrize("option", ["--data", "--data.class_path", "-c"])
def test_another_class_of_data_starts_from_its_own_defaults(option: str) -> None:
    """15 D: as an option, in a file of its own, or in a second configuration."""
    files = {
        "run": {"data": {"class_path": "datamodules.ImageMaskFolder", "init_args": {"val_fraction": 0.15}}},
        "other.yaml": {"class_path": "RoadAnomaly", "data": {"class_path": "RoadAnomaly"}},
        "same.yaml": {"class_path": "ImageMaskFolder", "data": {"class_path": "ImageMaskFolder"}},
        "none": {"model": None},
    }

    def changed(*values: str) -> list[str]:
        args = [word for value in values for word in (option, value)]
        return without_other_data(["test", "-c", "run", *args], lambda path: files[path.name])[3:]

    assert changed("other.yaml") == ["--data=null", option, "other.yaml"]
    assert changed("same.yaml") == [option, "same.yaml"]
    if option == "-c":
        assert changed("none", "other.yaml") == [option, "none", "--data=null", option, "other.yaml"]
        return
    assert changed("RoadAnomaly") == ["--data=null", option, "RoadAnomaly"]
    for value in ("ImageMaskFolder", "datamodules.ImageMaskFolder", "null", "{", '{"class_path": "ImageMaskFolder"}'):
        assert changed(value) == [option, value]


def test_a_second_configuration_with_other_data_takes_none_of_the_first(workspace: Workspace, tmp_path: Path) -> None:
    second = {"class_path": "datamodules.RoadAnomaly", "init_args": {"path": str(tmp_path)}}
    (tmp_path / "second.yaml").write_text(yaml.safe_dump({"data": second}))
    given = (
        "--config",
        str(workspace.config),
        "--config",
        str(tmp_path / "second.yaml"),
        "--data.eval_batch_size",
        "3",
    )
    args = with_saved_config(in_order(["test", *given]))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("before_instantiate_classes", "instantiate_classes", "after_instantiate_classes"):
            patch.setattr(CLI, name, lambda self: None)
        patch.setattr(CLI, "_run_subcommand", lambda self, subcommand: None)
        data = CLI(args).config.test.data
    assert data.class_path == "datamodules.RoadAnomaly"
    assert (data.init_args.eval_batch_size, data.init_args.num_workers) == (3, RoadAnomaly(tmp_path).num_workers)


def test_the_part_of_a_file_does_not_win_over_an_option(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "trainer.yaml").write_text("max_epochs: 2\nlog_every_n_steps: 1\n")
    run = workspace.fit("part", "--trainer.max_epochs", "1", "--trainer", str(tmp_path / "trainer.yaml"))
    saved = yaml.safe_load((run / "config.yaml").read_text())["trainer"]
    assert (saved["max_epochs"], saved["log_every_n_steps"]) == (1, 1)


def test_data_of_another_class_take_no_split_of_the_run(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """15 D: 17 of 20 images of an anomaly set were measured: the share for validation of the run's own data counted."""
    run = workspace.fit("shares", "--data.val_fraction", "0.5")
    capsys.readouterr()
    shutil.copytree(workspace.folder / "data" / "val", tmp_path / "RoadAnomaly")
    (tmp_path / "RoadAnomaly" / "masks").rename(tmp_path / "RoadAnomaly" / "labels_masks")
    merged = str(next(run.glob("best_merged_*")))
    other = ("--data", "RoadAnomaly", "--data.path", str(tmp_path))
    workspace.run("predict", "--ckpt_path", merged, *other, config=False)
    printed = capsys.readouterr().out
    assert "data: RoadAnomaly in place of the config's ImageMaskFolder" in printed
    assert len(list((run / "predictions" / "masks").rglob("*.png"))) == 3


def test_latest_is_that_of_the_run_whose_config_is_given(workspace: Workspace) -> None:
    """A newer run was resumed in its place."""
    older = workspace.fit("older")
    workspace.fit("newer")
    workspace.run(
        "fit",
        "--config",
        str(older / "config.yaml"),
        "--ckpt_path",
        "latest",
        "--trainer.max_epochs",
        "3",
        config=False,
    )
    assert list(older.glob("final_lora_step12.ckpt"))
