"""Fields that had another name in version 0.1.0, so that configurations and runs from then still open."""

from typing import Any

# name of the class, whatever module it is named by -> old field -> new field
RENAMED: dict[str, dict[str, str]] = {
    "SAM2": {"image_size": "img_size"},
    "Severstal": {"image_size": "img_size"},
    "SteelStrips": {"image_size": "img_size"},
    "SemanticSegmentation": {"normalise_scores": "normalize_scores"},
}


def with_new_names(config: Any) -> Any:
    """Return a configuration, or a part of one, with the fields of its components under their current names."""
    if isinstance(config, list):
        return [with_new_names(value) for value in config]
    if not isinstance(config, dict):
        return config
    config = {name: with_new_names(value) for name, value in config.items()}
    renamed = RENAMED.get(str(config.get("class_path")).rpartition(".")[2], {})
    arguments = config.get("init_args")
    if renamed and isinstance(arguments, dict):
        # the parser refuses a file that holds both names
        new = {renamed.get(name, name): value for name, value in arguments.items()}
        config["init_args"] = new if len(new) == len(arguments) else arguments
    return config
