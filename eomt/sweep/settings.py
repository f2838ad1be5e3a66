"""Fields of a configuration by their address, as a command line gives it: `model.lora_config.rank`."""

import copy
import difflib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from eomt.errors import UserError, listed, shortened
from eomt.utils.yaml_bounds import YAML_ERRORS

# between a component and its fields in a file, but not in an address
INNER = "init_args"
# fields that a sweep sets itself, and what says how
WAYS, RATES, FOLDS, WORKERS = "give --ways", "give --rates", "give --folds", "give --workers"
SET_BY_SWEEP = {"model.lora_config": WAYS, "model.lora_config.enabled": WAYS, "model.lora_config.target_modules": WAYS}
SET_BY_SWEEP |= {"model.lr": RATES, "model.base_lr": RATES, "model.head_lr": RATES}
SET_BY_SWEEP |= {"seed_everything": FOLDS, "data.splits": FOLDS}
SET_BY_SWEEP |= dict.fromkeys(("trainer.devices", "trainer.num_nodes", "trainer.strategy"), WORKERS)
SET_BY_SWEEP |= dict.fromkeys(("run_name", "ckpt_path", "trainer.default_root_dir", "data", "model"), "name a field")


def _part(config: Any, name: str) -> Any:
    """Return the mapping below `config` in which a field of a component lies."""
    if isinstance(config, Mapping) and name not in config and isinstance(config.get(INNER), Mapping):
        return config[INNER]
    return config


def value_at(config: Mapping[str, Any], address: str) -> Any:
    """Return the value of a field.

    Raises:
        UserError: There is no such field; the message has the nearest names.
    """
    found: Any = config
    names = address.split(".")
    for place, name in enumerate(names):
        part = _part(found, name)
        if not isinstance(part, Mapping) or name not in part:
            before = ".".join(names[:place])
            known = [f"{before}.{key}" if before else key for key in part] if isinstance(part, Mapping) else []
            near = difflib.get_close_matches(".".join(names[: place + 1]), known, 3, 0.5)
            if near:
                raise UserError(f"grid: there is no field {address!r}; did you mean {listed(near)}?")
            there = f"there are {listed(known, 20)}" if known else f"{before or 'it'} is null, and has no fields"
            raise UserError(f"grid: there is no field {address!r}; {there}")
        found = part[name]
    return found


def changed(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a configuration with other values at some addresses.

    Raises:
        UserError: There is no such field.
    """
    result = copy.deepcopy(dict(config))
    for address, value in changes.items():
        value_at(result, address)
        *above, last = address.split(".")
        part: Any = result
        for name in above:
            part = _part(part, name)[name]
        _part(part, last)[last] = copy.deepcopy(value)
    return result


def parse_grid(
    entries: Sequence[str], config: Mapping[str, Any], check: Callable[[Mapping[str, Any]], None] | None = None
) -> list[dict[str, Any]]:
    """Return every combination of the values that `--grid FIELD=V1,V2` names, each as values by address.

    Args:
        entries: `FIELD=V1,V2`; a value with commas of its own stands in brackets, as in YAML: `FIELD=[a, b],[c]`.
        config: The configuration, which has the fields.
        check: Raises a UserError of a configuration that cannot be used; None checks no values.

    Raises:
        UserError: An entry is none, there is no such field, it is set by the sweep, or it cannot have a value.
    """
    fields: dict[str, list[Any]] = {}
    for entry in entries:
        address, equals, text = entry.partition("=")
        address = address.lstrip("-")
        if not equals or not address:
            raise UserError(f"grid: {shortened(entry)!r}; must be FIELD=VALUE,VALUE, as in model.lora_config.rank=4,8")
        value_at(config, address)
        if address in SET_BY_SWEEP:
            raise UserError(f"grid: {address} is set by the sweep for each training; {SET_BY_SWEEP[address]}")
        try:
            values = yaml.safe_load(f"[{text}]")
        except YAML_ERRORS as error:
            raise UserError(f"grid: {shortened(text)!r} of {address} are no values; give V1,V2") from error
        if not values or address in fields:
            raise UserError(f"grid: {address} {'stands there twice' if values else 'has no values'}; give FIELD=V1,V2")
        fields[address] = list({yaml.safe_dump(value): value for value in values}.values())
        if check is not None:
            for value in fields[address]:
                try:
                    check(changed(config, {address: value}))
                except UserError as error:
                    raise UserError(f"grid: {error}") from error
    return [dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())]
