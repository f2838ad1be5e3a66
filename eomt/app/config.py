"""A command's configuration: completed, and in the forms in which it is saved."""

import logging
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from datamodules.common.conversion import FIELD_NAMES, Conversion
from datamodules.common.data_module import DataModule
from eomt.app.data_look import advising
from eomt.app.reading import class_of, read_yaml
from eomt.app.runs import CONFIG, Checkpoint, find_saved_config
from eomt.app.shipped import located
from eomt.errors import UserError
from eomt.models.network import Network
from eomt.tasks.base import AdaptationTask
from eomt.tasks.configuration import Configuration
from eomt.utils.paths import expand, expand_name, path_fields

log = logging.getLogger("eomt")

# of a command and of its trainer; those of a component are known by their types
PATHS = frozenset({"ckpt_path", "output", "default_root_dir"})


def network_class_of(config: Namespace) -> type[Network]:
    """Return the class of the network in a configuration."""
    found = class_of(config.model.init_args.network)
    # the task refuses a class that is no network
    return found if isinstance(found, type) and issubclass(found, Network) else Network


def configure(config: Namespace, checkpoint: Checkpoint | None, trains: bool) -> None:
    """Let the task fill in what the data determines, and the network what its weights determine.

    Args:
        config: Settings of a command, changed in place.
        checkpoint: The checkpoint that is opened; the classes of its run are used for data without classes.
        trains: Whether the training data will be read.

    Raises:
        UserError: For a value in the configuration that contradicts the data.
    """
    _use_recorded_conversion(config, checkpoint)
    found = _configuration(config, checkpoint, trains)
    if found is None:
        return
    arguments = (config.data or {}).get("init_args") or {}
    with advising(class_of(config.data) if config.data else None, arguments.get("path")):
        _task_class(config).configure(found)
    if checkpoint is None or checkpoint.kind != "merged":
        found.network_class.complete(found.network)
    _write_back(config, found)


def open_merged(config: Namespace, checkpoint: Checkpoint) -> None:
    """Set a configuration to a merged folder, which holds every weight: nothing is adapted or downloaded."""
    found = _configuration(config, checkpoint, trains=False)
    if found is None:
        return
    _task_class(config).open_merged(found, checkpoint.path)
    _write_back(config, found)


def assume_classes(config: Namespace, assumed: int | None) -> bool:
    """Set the number of classes where neither the data nor the user nor the weights give one.

    Args:
        config: Settings of a command without data, changed in place.
        assumed: The number of classes to assume; None assumes none.

    Returns:
        Whether the number was assumed.

    Raises:
        UserError: If the number is not known and none may be assumed.
    """
    network = config.model.init_args.get("network")
    arguments = network.get("init_args") if isinstance(network, Namespace) else None
    if arguments is None or "num_classes" not in arguments or arguments.num_classes is not None:
        return False
    if assumed is None:
        raise UserError("model.network.num_classes: null, and there is no data; give it as it was in training")
    arguments.num_classes = assumed
    return True


def use_recorded_split(config: Namespace, run: Path, trains: bool) -> bool:
    """Let a command on a run's checkpoint use the recorded split of that run, even if files were added since.

    Data at another path are split anew, but never in the middle of a training.

    Args:
        config: Settings of the command, changed in place.
        run: Folder of the run.
        trains: Whether the command goes on with the training.

    Returns:
        Whether the recorded split is used.

    Raises:
        UserError: If a training would go on with another split.
    """
    record = run / "splits.json"
    data = _init_args(config.get("data"))
    if data is None or "splits" not in data or data.splits is not None or not record.is_file():
        return False
    field = "path" if "path" in data else "train_csv"
    path = ((read_yaml(run / CONFIG).get("data") or {}).get("init_args") or {}).get(field)
    same_data = path is not None and expand(path).resolve() == expand(data[field]).resolve()
    if same_data:
        data.splits = record
    elif trains:
        raise UserError(
            f"data.{field}: {data[field]}, but the run was split at {path}; images of its test would be trained on: "
            f"start a new run, or, if the data was moved, add --data.splits {record}"
        )
    return same_data


def keep_saved_data(resolved: dict[str, Any], checkpoint: Checkpoint | None) -> dict[str, Any]:
    """Return the configuration that a command writes; without data, with those of the weights that it opens.

    So what is written, too, is opened with the names of its classes, and reads images as they were read in training.

    Args:
        resolved: The command's own.
        checkpoint: The weights.
    """
    if checkpoint is None or resolved.get("data") is not None:
        return resolved
    return resolved | {"data": _saved_data(checkpoint.path) or None}


def starts_from_pissa(config: Namespace) -> bool:
    """Return whether the adapters start from PiSSA.

    PiSSA subtracts the initial adapters from the base; an adapter folder is for the base without that subtraction.
    """
    lora = config.model.init_args.get("lora_config")
    return lora is not None and lora.get("init_args", lora).get("init_lora_weights") == "pissa"


def quantization_of(config: Namespace) -> str | None:
    """Return how the frozen base is to be quantized; None if it is not."""
    lora = config.model.init_args.get("lora_config")
    return None if lora is None else lora.get("init_args", lora).get("quantize")


def with_absolute_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Make the existing paths in `config` absolute, in place, so that a run opens from any folder; return it."""
    fields = path_fields(class_of(config)) if "class_path" in config else frozenset()
    arguments = config.get("init_args") or {}
    for name in fields & arguments.keys():
        arguments[name] = _absolute(arguments[name])
    for name, value in config.items():
        # loggers and the like keep what they were given: a run that is moved logs where it stands
        if name == "trainer":
            continue
        for component in value if isinstance(value, list) else [value]:
            if isinstance(component, dict):
                with_absolute_paths(component)
    return config


def expand_paths(config: Namespace) -> None:
    """Replace `~` by the home folder in every path of a command's settings, in place, before any of them is used.

    A base that came with the package is found from any folder, see `eomt.app.shipped.located`. Paths are known by the
    types of constructor arguments, in classes of other packages too, such as loggers.

    Args:
        config: Settings of a command, or a part of them.
    """
    component = config if "class_path" in config else None
    fields = path_fields(class_of(component)) if component else PATHS
    arguments = component.get("init_args") if component else config
    for name in fields & vars(arguments or Namespace()).keys():
        arguments[name] = _expanded(arguments[name])
    for value in vars(config).values():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, Namespace):
                expand_paths(inner)


def named_paths(config: Namespace, address: str = "") -> Iterator[tuple[str, Path]]:
    """Yield every path that the components of a configuration name, with its address, whether it exists or not.

    Args:
        config: Settings of a command, or a part of them.
        address: Of that part.
    """
    arguments = config.get("init_args") if "class_path" in config else None
    if isinstance(arguments, Namespace):
        for name in sorted(path_fields(class_of(config)) & vars(arguments).keys()):
            yield from ((f"{address}.{name}", path) for path in _paths_in(arguments[name]))
    for name, value in vars(config).items():
        # the address on the command line has no init_args
        inside = address if name == "init_args" else f"{address}.{name}".lstrip(".")
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, Namespace):
                yield from named_paths(inner, inside)


def standalone_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that opens a merged model: without adapters and without downloads."""
    plain = yaml.safe_load(yaml.safe_dump(config))
    task = plain["model"]["init_args"]
    task["lora_config"] = None
    class_of(task["network"]).without_weights(task["network"]["init_args"])
    return plain


def _use_recorded_conversion(config: Namespace, checkpoint: Checkpoint | None) -> None:
    """Let the data of a command on trained weights read stored values as in training, where the user says nothing.

    Args:
        config: Settings of the command, changed in place.
        checkpoint: The weights.
    """
    data = _init_args(config.get("data"))
    if checkpoint is None or data is None:
        return
    saved = _saved_data(checkpoint.path).get("init_args") or {}
    # whoever wrote it
    Conversion.of_settings(saved, f"{checkpoint.path}: its data")
    for name in FIELD_NAMES:
        if name in data and data[name] is None and saved.get(name) is not None:
            log.info("data.%s: %s, as in training", name, saved[name])
            data[name] = saved[name]


def _saved_data(weights: Path) -> dict[str, Any]:
    """Return the data in the configuration that was saved with weights; empty without one."""
    try:
        return read_yaml(find_saved_config(weights)).get("data") or {}
    except UserError:
        return {}


def _task_class(config: Namespace) -> type[AdaptationTask]:
    return class_of(config.model)


def _data_class(config: Namespace) -> type[Any]:
    found = class_of(config.data)
    if not (isinstance(found, type) and issubclass(found, DataModule)):
        raise UserError(
            f"data: {config.data.class_path} does not say what its data are; derive it from datamodules.DataModule "
            "(CONTRIBUTING.md shows how)"
        )
    return found


def _configuration(config: Namespace, checkpoint: Checkpoint | None, trains: bool) -> Configuration | None:
    """Return the parts of a configuration as plain values; None where the network has no arguments."""
    network = config.model.init_args.get("network")
    arguments = _init_args(network)
    if arguments is None:
        return None
    task = {name: value for name, value in _plain(config.model.init_args).items() if name != "network"}
    data = _init_args(config.get("data"))
    run = checkpoint.run if checkpoint else None
    network_class = network_class_of(config)
    is_open = checkpoint is not None and checkpoint.kind == "merged" and network_class.opens(checkpoint.path)
    return Configuration(
        task,
        _plain(arguments),
        network_class,
        None if data is None else _plain(data),
        None if data is None else _data_class(config),
        None if run is None else partial(_network_arguments_of, run),
        checkpoint.path if checkpoint and is_open else None,
        trains,
    )


def _network_arguments_of(run: Path) -> dict[str, Any]:
    """Return the constructor arguments of the network in a run's configuration."""
    model = read_yaml(run / CONFIG).get("model") or {}
    return ((model.get("init_args") or {}).get("network") or {}).get("init_args") or {}


def _plain(arguments: Namespace) -> dict[str, Any]:
    return arguments.as_dict()


def _write_back(config: Namespace, found: Configuration) -> None:
    """Write the completed parts back into a configuration."""
    _update(config.model.init_args, found.task)
    _update(config.model.init_args.network.init_args, found.network)
    if found.data is not None:
        _update(config.data.init_args, found.data)


def _update(arguments: Namespace, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        before = arguments.get(name)
        if isinstance(before, Namespace) and isinstance(value, Mapping):
            _update(before, value)
        elif before != value:
            arguments[name] = value


def _expanded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _expanded(path) for name, path in value.items()}
    if isinstance(value, list):
        return [_expanded(path) for path in value]
    if isinstance(value, str):
        return located(expand_name(value))
    return Path(located(str(expand(value)))) if isinstance(value, Path) else value


def _paths_in(value: Any) -> Iterator[Path]:
    if isinstance(value, str | Path):
        yield Path(value)
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _paths_in(inner)


def _absolute(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _absolute(path) for name, path in value.items()}
    if isinstance(value, list):
        return [_absolute(path) for path in value]
    return str(expand(value).absolute()) if isinstance(value, str) and expand(value).exists() else value


def _init_args(component: Any) -> Namespace | None:
    return component.get("init_args") if isinstance(component, Namespace) else None
