"""16.1: of a configuration beside weights only this package's classes and plain values are taken."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.cli_runs import Workspace, make_workspace, refusal

Spoil = Callable[[dict[str, Any], Path], None]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = make_workspace(tmp_path_factory.mktemp("trust"))
    made.fit("run")
    return made


def component(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


def touch(trace: Path) -> str:
    return f'__import__("pathlib").Path({str(trace)!r}).touch()'


def lambda_callback(config: dict[str, Any], trace: Path) -> None:
    """The file that ran a command: SymPy evaluates the text."""
    function = component("sympy.Lambda", signature="x", expr=touch(trace))
    config["trainer"]["callbacks"] = [
        component("lightning.pytorch.callbacks.LambdaCallback", on_predict_start=function)
    ]


def mere_name(config: dict[str, Any], trace: Path) -> None:
    config["trainer"]["callbacks"] = ["lightning.pytorch.callbacks.DeviceStatsMonitor"]


def logger(config: dict[str, Any], trace: Path) -> None:
    config["trainer"]["logger"] = component("lightning.pytorch.loggers.CSVLogger", save_dir=str(trace))


def writer_of_checkpoints(config: dict[str, Any], trace: Path) -> None:
    config["trainer"]["callbacks"] += [
        component("lightning.pytorch.callbacks.OnExceptionCheckpoint", dirpath=str(trace)),
        component("lightning.pytorch.callbacks.ModelCheckpoint", dirpath=str(trace), save_top_k=-1),
    ]


def strategy(config: dict[str, Any], trace: Path) -> None:
    config["trainer"]["strategy"] = component("lightning.pytorch.strategies.DDPStrategy", process_group_backend="gloo")


def plugins(config: dict[str, Any], trace: Path) -> None:
    config["trainer"]["plugins"] = [component("lightning.pytorch.plugins.io.AsyncCheckpointIO")]


def profiler(config: dict[str, Any], trace: Path) -> None:
    config["trainer"]["profiler"] = component("lightning.pytorch.profilers.SimpleProfiler", dirpath=str(trace))


def folder(config: dict[str, Any], trace: Path) -> None:
    config["trainer"]["default_root_dir"] = str(trace)


def features(config: dict[str, Any], trace: Path) -> None:
    config["model"]["init_args"]["feature_folder"] = str(trace)


def names_in_the_trainer(config: dict[str, Any], trace: Path) -> None:
    """Texts are names of classes, too."""
    config["trainer"] |= {"logger": "TensorBoardLogger", "profiler": "simple.Profiler", "plugins": "evil.Foo"}


def dotted_names(config: dict[str, Any], trace: Path) -> None:
    """Another form of the same, which is taken apart later."""
    config["trainer"].pop("logger", None)
    config["trainer"] |= {
        "logger.class_path": "lightning.pytorch.loggers.CSVLogger",
        "logger.init_args.save_dir": str(trace),
    }


def added_callback(config: dict[str, Any], trace: Path) -> None:
    config["trainer"]["callbacks+"] = "lightning.pytorch.callbacks.DeviceStatsMonitor"


def many_processes(config: dict[str, Any], trace: Path) -> None:
    config["trainer"] |= {"devices": 4000, "accelerator": "cpu"}


def other_machines(config: dict[str, Any], trace: Path) -> None:
    config["trainer"] |= {"num_nodes": 2, "accelerator": "cpu"}


LEFT_OUT: list[Spoil] = [
    many_processes,
    other_machines,
    names_in_the_trainer,
    dotted_names,
    added_callback,
    lambda_callback,
    mere_name,
    logger,
    writer_of_checkpoints,
    strategy,
    plugins,
    profiler,
]


def network(config: dict[str, Any], trace: Path) -> None:
    config["model"]["init_args"]["network"] = component("sympy.Lambda", signature="x", expr=touch(trace))


def encoder(config: dict[str, Any], trace: Path) -> None:
    config["model"]["init_args"]["network"]["init_args"]["encoder"] = component("torch.nn.Identity")


def name_of_an_encoder(config: dict[str, Any], trace: Path) -> None:
    config["model"]["init_args"]["network"]["init_args"]["encoder"] = "torch.nn.Identity"


def file_of_an_encoder(config: dict[str, Any], trace: Path) -> None:
    file = trace.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(component("torch.nn.Identity")))
    config["model"]["init_args"]["network"]["init_args"]["encoder"] = str(file)


def datamodule(config: dict[str, Any], trace: Path) -> None:
    config["data"] = component("lightning.pytorch.demos.boring_classes.BoringDataModule")


def task(config: dict[str, Any], trace: Path) -> None:
    config["model"]["class_path"] = "lightning.pytorch.demos.boring_classes.BoringModel"


def through_a_module_of_ours(config: dict[str, Any], trace: Path) -> None:
    config["model"]["class_path"] = "eomt.app.command_line.LightningCLI"


def function_of_ours(config: dict[str, Any], trace: Path) -> None:
    config["data"] = component("eomt.cli.main", args=["fit"])


def deep_inside(config: dict[str, Any], trace: Path) -> None:
    config["data"]["init_args"]["class_map"] = {0: component("sympy.Lambda", signature="x", expr=touch(trace))}


def component_as_text(config: dict[str, Any], trace: Path) -> None:
    config["model"] = str(trace)


def dotted_network(config: dict[str, Any], trace: Path) -> None:
    config["model"]["init_args"]["network.class_path"] = "torch.nn.Identity"


def dotted_encoder(config: dict[str, Any], trace: Path) -> None:
    config["model"]["init_args"]["network"]["init_args"]["encoder.class_path"] = "torch.nn.Identity"


def more_arguments(config: dict[str, Any], trace: Path) -> None:
    config["model"]["dict_kwargs"] = {"network": "torch.nn.Identity"}


def arguments_alone(config: dict[str, Any], trace: Path) -> None:
    config["model"]["init_args"]["network"] = {"init_args": {"encoder": "torch.nn.Identity"}}


def dotted_record(config: dict[str, Any], trace: Path) -> None:
    config["model"]["init_args"]["lora_config"] = {"rank": 4, "init_args.alpha": 3}


REFUSED: list[Spoil] = [
    dotted_network,
    dotted_encoder,
    more_arguments,
    arguments_alone,
    dotted_record,
    network,
    encoder,
    name_of_an_encoder,
    file_of_an_encoder,
    datamodule,
    task,
    through_a_module_of_ours,
    function_of_ours,
    deep_inside,
    component_as_text,
]
FORMS = ["best_merged_*", "best_lora_*", "best_lora_*.ckpt"]


def foreign(workspace: Workspace, tmp_path: Path, pattern: str, spoil: Spoil) -> Path:
    """Return weights beside a configuration of someone else's."""
    is_file = pattern.endswith(".ckpt")
    (found,) = [path for path in (workspace.runs / "run").glob(pattern) if path.is_file() == is_file]
    weights = tmp_path / "foreign" / found.name
    weights.parent.mkdir()
    if found.is_dir():
        shutil.copytree(found, weights)
    else:
        shutil.copy(found, weights)
    beside = weights / "config.yaml" if "merged" in pattern else weights.parent / "config.yaml"
    config = yaml.safe_load((workspace.runs / "run" / "config.yaml").read_text())
    if "merged" in pattern:
        config = yaml.safe_load(beside.read_text())
    spoil(config, tmp_path / "trace")
    beside.write_text(yaml.safe_dump(config))
    return weights


@pytest.mark.parametrize(
    ("pattern", "spoil"),
    [(FORMS[0], spoil) for spoil in (*LEFT_OUT, features, folder)]
    + [(pattern, lambda_callback) for pattern in FORMS[1:]],
)
def test_what_only_adds_to_a_command_is_left_out(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], pattern: str, spoil: Spoil
) -> None:
    weights = foreign(workspace, tmp_path, pattern, spoil)
    workspace.run("predict", "--ckpt_path", str(weights), config=False)
    assert not (tmp_path / "trace").exists()
    assert ("left out" in capsys.readouterr().out) == (spoil is not folder)


@pytest.mark.parametrize("spoil", REFUSED, ids=lambda spoil: spoil.__name__)
def test_what_is_needed_is_of_this_package(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Spoil
) -> None:
    weights = foreign(workspace, tmp_path, FORMS[0], spoil)
    error = refusal(capsys, workspace, "predict", "--ckpt_path", str(weights), config=False)
    assert "--trust" in error
    assert len(error) <= 400
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("spoil", LEFT_OUT, ids=lambda spoil: spoil.__name__)
def test_a_training_goes_on_with_all_or_not_at_all(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Spoil
) -> None:
    weights = foreign(workspace, tmp_path, FORMS[2], spoil)
    error = refusal(capsys, workspace, "fit", "--ckpt_path", str(weights), config=False)
    assert "--trust" in error


@pytest.mark.parametrize("given", ["--trust", "--config"])
def test_a_folder_that_is_trusted_and_a_config_that_is_given_are_taken_whole(
    workspace: Workspace, tmp_path: Path, given: str
) -> None:
    weights = foreign(workspace, tmp_path, FORMS[0], logger)
    trust = ["--trust"] if given == "--trust" else ["--config", str(weights / "config.yaml")]
    workspace.run("validate", "--ckpt_path", str(weights), *trust, config=False)
    assert (tmp_path / "trace").is_dir()


def test_an_adapter_s_own_files_name_no_class(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PEFT's `auto_mapping` and the like are texts for others; nothing here imports what they name."""
    weights = foreign(workspace, tmp_path, FORMS[1], folder)
    settings = json.loads((weights / "adapter_config.json").read_text())
    settings |= {"auto_mapping": {"base_model_class": "os.system", "parent_library": "nowhere.at.all"}}
    (weights / "adapter_config.json").write_text(json.dumps(settings))
    workspace.run("validate", "--ckpt_path", str(weights), config=False)


@pytest.mark.parametrize("where", ["victim.zip", "..", "../other", "best_lora_step4_x/../../other"])
def test_a_checkpoint_names_nothing_that_is_removed_but_its_own_files(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    """The name of the best so far could be any path, which a better one replaced."""
    weights = foreign(workspace, tmp_path, FORMS[2], folder)
    victim = tmp_path / "victim.zip"
    victim.write_text("mine")
    for callback, name in (("LoRACheckpoint", "best_name"), ("MergeOnSave", "name")):
        saved = torch.load(weights, weights_only=True)
        (state,) = [value for key, value in saved["callbacks"].items() if key.startswith(callback)]
        state[name] = str(victim) if where == victim.name else where
        forged = weights.with_name(f"best_lora_step8_{callback}.ckpt")
        torch.save(saved, forged)
        args = ("--ckpt_path", str(forged), "--trainer.max_epochs", "4")
        assert "is no name of a file that a run saves" in refusal(capsys, workspace, "fit", *args, config=False)
    assert victim.read_text() == "mine"


def test_states_of_callbacks_that_cannot_be_read_are_one_line(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = foreign(workspace, tmp_path, FORMS[2], folder)
    saved = torch.load(weights, weights_only=True)
    for key in saved["callbacks"]:
        saved["callbacks"][key] = {"nothing": "of use"}
    torch.save(saved, weights)
    args = ("--ckpt_path", str(weights), "--trainer.max_epochs", "4")
    error = refusal(capsys, workspace, "fit", *args, config=False)
    assert re.search(r"ckpt_path: its state of \w+: has no \w+; give another checkpoint", error)


def test_nothing_is_drawn_where_a_configuration_beside_weights_says(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It could fill the disk, anywhere."""

    def drawn(config: dict[str, Any], trace: Path) -> None:
        config["data"] = component("datamodules.StreetScenes", path=str(trace / "x"), num_train=5)

    weights = foreign(workspace, tmp_path, FORMS[0], drawn)
    error = refusal(capsys, workspace, "validate", "--ckpt_path", str(weights), config=False)
    assert "data would be drawn at" in error
    # a demo reads no data: what is wrong here is the number of classes
    other = refusal(capsys, workspace, "demo", "--ckpt_path", str(weights), config=False)
    assert "the data has 7 classes" in other
    assert not (tmp_path / "trace").exists()
