"""What is taken from a configuration that lies beside weights: whoever made the weights wrote it, too."""

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from eomt.app.arguments import CONFIG_OPTIONS, option_values, without_other_data
from eomt.app.reading import class_of, read_yaml
from eomt.app.runs import saved_config
from eomt.app.shipped import check_config
from eomt.errors import UserError, listed, shortened
from eomt.utils.paths import constructor_parameters, expand

log = logging.getLogger("eomt")

# top-level packages of this project
OWN = ("eomt", "datamodules", "callbacks")
COMPONENTS = ("model", "data")
PLAIN = ("seed_everything", "audit")
# of the trainer: fields whose texts choose from a list of Lightning's own; any other text may name a class
TEXTS = ("precision", "accelerator", "strategy", "devices", "gradient_clip_algorithm", "max_time")
# how many processes a configuration beside weights may start or wait for
MOST_PROCESSES = {
    "devices": lambda: max(os.cpu_count() or 1, _num_gpus()),
    "num_nodes": lambda: max(int(os.environ.get(name, "1")) for name in ("GROUP_WORLD_SIZE", "SLURM_NNODES")),
}
CHOICE = re.compile(r"[\w:-]{1,60}")


def _num_gpus() -> int:
    # loaded only where a configuration asks for it, so that other mistakes are told at once
    import torch

    return torch.cuda.device_count()


def with_saved_config(args: list[str]) -> list[str]:
    """Return the arguments of a command with what is taken from the configuration saved with its weights, if any.

    Raises:
        UserError: If a configuration cannot be read, or would run code of others.
    """
    saved = saved_config(args)
    if saved is None:
        if "--trust" in args:
            raise UserError(
                "trust: no config beside --ckpt_path is read, since "
                + ("--config is given" if option_values(args, *CONFIG_OPTIONS) else "there is no --ckpt_path")
                + "; leave --trust out"
            )
        return without_other_data(args, _read_given)
    weights, config = saved
    given = str(config)
    if "--trust" not in args:
        found, left = _taken_from(config, args)
        if left:
            log.info("%s: left out, and not taken from there: %s (--trust takes all)", config, listed(left))
        given = yaml.safe_dump(found, sort_keys=False)
    # of two equal options the later one counts, so an alias becomes the path that it stands for
    args = [args[0], "--config", given, *args[1:], "--ckpt_path", str(weights)]
    return without_other_data(args, _read_given)


def _read_given(path: Path) -> dict[str, Any]:
    """Return the fields of a configuration that a command names.

    Raises:
        UserError: If it cannot be read; names of shipped ones that are near it are told.
    """
    check_config(str(path))
    return read_yaml(path)


def _taken_from(path: Path, given: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return what a command takes from a configuration beside weights, and the addresses of what it leaves out.

    `model`, `data`, `audit` and the seed are taken, with classes of this package alone; of the trainer, plain values
    and callbacks of this package, but no folder. A class of anyone else's could do anything when it is built. What only
    adds to a command, such as a logger, is left out; a training goes on with all that it began with, or not at all.

    Args:
        path: The configuration.
        given: Arguments of the command.

    Raises:
        UserError: If a part that is needed is of another package.
    """
    config = read_yaml(path)
    taken = {name: config[name] for name in (*COMPONENTS, *PLAIN) if name in config}
    for name, value in taken.items():
        # `audit` is no component, but the arguments of one
        foreign = _of_plain(value, name) if name in PLAIN else _of_component(value, name)
        for address, found in foreign:
            raise _refusal(path, address, found)
    _refuse_drawing(path, taken.get("data"), given)
    trainer = config.get("trainer")
    taken["trainer"], left = _own_parts(trainer if isinstance(trainer, dict) else {})
    if given[0] == "fit" and left:
        raise _refusal(path, *next(iter(left.items())))
    arguments = (taken.get("model") or {}).get("init_args") or {}
    # a training does not hang on it, and whoever made the weights must not choose where files are read and written
    if arguments.pop("feature_folder", None) is not None:
        left["model.feature_folder"] = ""
    return taken, list(left)


def _refuse_drawing(path: Path, data: Any, given: list[str]) -> None:
    """Check that a configuration beside weights has nothing drawn in a new folder, which it could choose.

    Raises:
        UserError: If it would.
    """
    # a demo is shown images, and reads no data
    if data is None or given[0] == "demo" or option_values(given, "--data", "--data.path", "--data.class_path"):
        return
    place = (data.get("init_args") or {}).get("path")
    drawn = hasattr(class_of(data), "generator_version")
    if drawn and (place is None or not expand(str(place)).is_dir()):
        raise UserError(
            f"{path}: data would be drawn at {shortened(str(place), 60)}, which is not there; give --data.path, "
            "or, if you trust whoever made it, --trust"
        )


def _refusal(path: Path, address: str, found: str) -> UserError:
    why = "not of this package, and its code would run"
    if address.removeprefix("trainer.") in MOST_PROCESSES:
        why = "more than this machine has, or was started on"
    return UserError(
        f"{path}: {address} is {shortened(found, 60)}, which is {why}; if you trust whoever made it, add --trust"
    )


def _own_parts(trainer: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what is taken of a trainer, and what is not: address and what stands there."""
    kept: dict[str, Any] = {}
    left: dict[str, str] = {}
    for name, value in trainer.items():
        if name == "callbacks" and value is not None:
            kept[name] = []
            for index, callback in enumerate(value if isinstance(value, list) else [value]):
                foreign = dict(_of_component(callback, f"trainer.callbacks.{index}"))
                kept[name] += [] if foreign else [callback]
                left |= foreign
        elif name == "default_root_dir":
            continue
        elif name in MOST_PROCESSES and not _are_here(name, value):
            left[f"trainer.{name}"] = str(value)
        elif _is_plain(name, value):
            kept[name] = value
        else:
            found = value.get("class_path", value) if isinstance(value, dict) else value
            left[f"trainer.{name}"] = str(found)
    return kept, left


def _are_here(name: str, value: Any) -> bool:
    """Return whether a number of processes is one that this machine, or its launcher, has room for."""
    numbers = value if isinstance(value, list) else [value]
    parts = [part for number in numbers for part in str(number).split(",")]
    most = MOST_PROCESSES[name]()
    return len(parts) <= most and all(not part.strip().isdigit() or int(part) <= most for part in parts)


def _is_plain(name: str, value: Any) -> bool:
    """Return whether a field of a trainer, and its value, are of no class."""
    if isinstance(value, str):
        return name in TEXTS and CHOICE.fullmatch(value) is not None
    # another form of the name (`logger.class_path`, `callbacks+`) would be taken apart later
    return str(name).isidentifier() and (value is None or isinstance(value, bool | int | float))


def _of_component(value: Any, address: str) -> Iterator[tuple[str, str]]:
    """Yield address and text of what, in a component and in those inside, is not of this package.

    Forms that a run does not save are not of it either: mere names, files, names of parts with dots, `dict_kwargs`.
    """
    if value is None:
        return
    if not isinstance(value, dict) or "class_path" not in value:
        yield address, str(value)
        return
    if not is_own(value["class_path"]):
        yield address, str(value["class_path"])
        return
    parameters = constructor_parameters(class_of(value))
    for key, part in value.items():
        if key == "init_args" and isinstance(part, dict):
            for name, argument in part.items():
                if str(name).isidentifier():
                    annotation = parameters[name].annotation if name in parameters else None
                    yield from _of_argument(argument, annotation, f"{address}.{name}")
                else:
                    yield f"{address}.{name}", str(argument)
        elif key not in ("class_path", "init_args") or (key == "init_args" and part is not None):
            yield f"{address}.{key}", str(part)


def _of_argument(value: Any, annotation: Any, address: str) -> Iterator[tuple[str, str]]:
    members = [member for member in (annotation, *get_args(annotation)) if _is_own_type(member)]
    if isinstance(value, dict) and "class_path" in value:
        yield from _of_component(value, address)
    elif not members or value is None:
        yield from _of_plain(value, address)
    elif isinstance(value, dict) and any(is_dataclass(member) for member in members):
        # the fields of one of this package's records
        yield from _of_plain(value, address)
        for key in value:
            if not str(key).isidentifier():
                yield f"{address}.{key}", str(value[key])
    else:
        yield address, str(value)


def _of_plain(value: Any, address: str) -> Iterator[tuple[str, str]]:
    """Yield address and text of what, in plain values, would be taken for a class."""
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _of_plain(inner, f"{address}.{index}")
    elif isinstance(value, dict):
        for key, inner in value.items():
            if "class_path" in str(key):
                yield f"{address}.{key}", str(inner)
            else:
                yield from _of_plain(inner, f"{address}.{key}")


def is_own(class_path: Any) -> bool:
    """Return whether a text names a class that is defined in this package."""
    if not isinstance(class_path, str) or class_path.partition(".")[0] not in OWN:
        return False
    try:
        found = class_of({"class_path": class_path})
    except (ImportError, AttributeError):
        return False
    return _is_own_type(found)


def _is_own_type(found: Any) -> bool:
    return isinstance(found, type) and found.__module__.partition(".")[0] in OWN
