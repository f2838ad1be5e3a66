"""What is taken from a configuration that lies beside weights: whoever made the weights wrote it, too."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml

from eomt.app.arguments import CONFIG_OPTIONS, option_values, without_other_data
from eomt.app.config import class_of, read_yaml
from eomt.app.runs import saved_config
from eomt.errors import UserError, listed, shortened
from eomt.utils.paths import constructor_parameters

log = logging.getLogger("eomt")

# top-level packages of this project
OWN = ("eomt", "datamodules", "callbacks")
# fields with one component, or with plain values
COMPONENTS = ("model", "data", "audit")


def with_saved_config(args: list[str]) -> list[str]:
    """Return the arguments of a command with what is taken from the configuration saved with its weights, if any.

    Raises:
        UserError: If a configuration cannot be read, or would run code of others.
    """
    data = [read_yaml(Path(given)).get("data") for given in option_values(args, *CONFIG_OPTIONS)]
    saved = saved_config(args)
    if saved is None:
        return without_other_data(args, data[-1] if data else None)
    weights, config = saved
    given, found = str(config), read_yaml(config)
    if "--trust" not in args:
        found, left = _taken_from(config, trains=args[0] == "fit")
        if left:
            log.info("%s: left out, since it is not of this package: %s (--trust takes all)", config, listed(left))
        given = yaml.safe_dump(found, sort_keys=False)
    args = without_other_data(args, found.get("data"))
    # of two equal options the later one counts, so an alias becomes the path that it stands for
    return [args[0], "--config", given, *args[1:], "--ckpt_path", str(weights)]


def _taken_from(path: Path, trains: bool) -> tuple[dict[str, Any], list[str]]:
    """Return what a command takes from a configuration beside weights, and the addresses of what it leaves out.

    `model`, `data`, `audit` and the seed are taken, with classes of this package alone; of the trainer, plain values
    and callbacks of this package, but no folder. A class of anyone else's could do anything when it is built. What only
    adds to a command, such as a logger, is left out; a training goes on with all that it began with, or not at all.

    Args:
        path: The configuration.
        trains: Whether the command goes on with a training.

    Raises:
        UserError: If a part that is needed is of another package.
    """
    config = read_yaml(path)
    taken = {name: config[name] for name in ("seed_everything", *COMPONENTS) if name in config}
    for name in COMPONENTS:
        # jsonargparse also takes a component's mere name, or a file with it
        if isinstance(taken.get(name), str):
            raise _refusal(path, name, taken[name])
        for address, found in _foreign(taken.get(name), name):
            raise _refusal(path, address, found)
    trainer = config.get("trainer")
    taken["trainer"], left = _own_parts(trainer if isinstance(trainer, dict) else {})
    if trains and left:
        raise _refusal(path, *next(iter(left.items())))
    return taken, list(left)


def _refusal(path: Path, address: str, found: str) -> UserError:
    return UserError(
        f"{path}: {address} is {shortened(found, 60)}, which is not of this package, and its code would run; "
        "if you trust whoever made it, add --trust"
    )


def _own_parts(trainer: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what is taken of a trainer, and what is not: address and what stands there."""
    kept: dict[str, Any] = {}
    left: dict[str, str] = {}
    for name, value in trainer.items():
        if name == "callbacks" and value is not None:
            kept[name] = []
            for index, callback in enumerate(value if isinstance(value, list) else [value]):
                address = f"trainer.callbacks.{index}"
                foreign = dict(_foreign(callback, address)) if isinstance(callback, dict) else {address: str(callback)}
                kept[name] += [] if foreign else [callback]
                left |= foreign
        elif isinstance(value, dict | list):
            left[f"trainer.{name}"] = str(value.get("class_path") if isinstance(value, dict) else value)
        elif name != "default_root_dir":
            kept[name] = value
    return kept, left


def _foreign(value: Any, address: str) -> Iterator[tuple[str, str]]:
    """Yield address and text of each class inside a value that is not of this package."""
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _foreign(inner, f"{address}.{index}")
    if not isinstance(value, dict):
        return
    found = value.get("class_path")
    components: list[str] = []
    if "class_path" in value:
        if not _is_own(found):
            yield address, str(found)
            return
        parameters = constructor_parameters(class_of(value))
        components = [name for name, parameter in parameters.items() if _takes_component(parameter.annotation)]
    for name, inner in value.items():
        for field, argument in inner.items() if name == "init_args" and isinstance(inner, dict) else ():
            if field in components and isinstance(argument, str):
                yield f"{address}.{field}", argument
        yield from _foreign(inner, address if name == "init_args" else f"{address}.{name}")


def _is_own(class_path: Any) -> bool:
    """Return whether a text names a class that is defined in this package."""
    if not isinstance(class_path, str) or class_path.partition(".")[0] not in OWN:
        return False
    try:
        found = class_of({"class_path": class_path})
    except (ImportError, AttributeError):
        return False
    return isinstance(found, type) and found.__module__.partition(".")[0] in OWN


def _takes_component(annotation: Any) -> bool:
    """Return whether an argument of a type is built from a class_path."""
    return any(
        isinstance(member, type) and member.__module__.partition(".")[0] in OWN
        for member in (annotation, *get_args(annotation))
    )
