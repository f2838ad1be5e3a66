"""What a run's configuration says that holds on another machine: no paths, and a base that others can get."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eomt.app.reading import class_of
from eomt.app.trust import is_own
from eomt.errors import UserError, shortened
from eomt.utils.hub import is_repository
from eomt.utils.paths import path_fields

# what says how a network is built, and not where a run was made
KEPT = ("seed_everything", "model", "data", "audit")


def portable_config(config: Mapping[str, Any], base: str | None) -> tuple[dict[str, Any], list[str]]:
    """Return the configuration that opens shared weights, and the local paths that `base` takes the place of.

    Paths of data are left out: who opens the weights has data of their own. Trainer and callbacks are, too.

    Args:
        config: A run's configuration.
        base: Repository on the hub with the weights that the network starts from, where these are a local path.

    Raises:
        UserError: If the network starts from local weights and `base` is null, or of several there is one `base`.
    """
    found = {name: _copy(config[name]) for name in KEPT if name in config}
    local = list(_local_sources(found.get("model"), "model"))
    sources = sorted({arguments[name] for _, arguments, name in local})
    if sources and base is None:
        raise UserError(
            f"base: {local[0][0]} is {shortened(sources[0], 80)} on this machine, which nobody else has; give --base "
            "with its repository on the hub, or share the merged folder, which needs none"
        )
    if len(sources) > 1:
        raise UserError(f"base: the network starts from {len(sources)} local folders; share the merged folder")
    for _, arguments, name in local:
        arguments[name] = base
    task = ((found.get("model") or {}).get("init_args")) or {}
    task.pop("feature_folder", None)
    _drop_paths(found.get("data"))
    return found, sources


def local_sources(config: Mapping[str, Any]) -> list[str]:
    """Return the local paths of weights that the network of a configuration starts from, each once."""
    return sorted({arguments[name] for _, arguments, name in _local_sources(config.get("model"), "model")})


def _local_sources(component: Any, address: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield address, arguments and name of each argument of a network that names a local path."""
    if not isinstance(component, dict):
        return
    arguments = component.get("init_args") or {}
    fields = path_fields(class_of(component)) if "class_path" in component else frozenset()
    for name, value in arguments.items():
        if isinstance(value, dict):
            yield from _local_sources(value, f"{address}.{name}")
        elif name in fields and isinstance(value, str) and is_local(value):
            yield f"{address}.{name}", arguments, name


def is_local(source: str) -> bool:
    """Return whether a text names a path of this machine, and nothing that others can get."""
    path = Path(source).expanduser()
    # names of timm's and of released sizes have no slash, and are no files here
    return path.exists() or path.is_absolute() or ("/" in source and not is_repository(source))


def _drop_paths(component: Any) -> None:
    """Leave out the paths of data, in place."""
    if not isinstance(component, dict) or not is_own(component.get("class_path")):
        return
    arguments = component.get("init_args") or {}
    for name in path_fields(class_of(component)) & arguments.keys():
        value = arguments[name]
        # a tokenizer may be a name on the hub
        if not isinstance(value, str) or is_local(value) or not is_repository(value):
            del arguments[name]


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copy(inner) for name, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value
