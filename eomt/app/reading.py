"""Configurations as they are read: the fields of a YAML file, and the classes that they name."""

import importlib
from pathlib import Path
from typing import Any

import yaml

from eomt.app.renamed import with_new_names
from eomt.errors import UserError
from eomt.utils.reading import read_text
from eomt.utils.yaml_bounds import YAML_ERRORS, check_yaml


class StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a field that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping.

        Raises:
            yaml.constructor.ConstructorError: If a field stands twice.
        """
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a name must be a text", key.start_mark)
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the fields of a YAML file.

    Raises:
        UserError: If it cannot be read, or holds no fields.
    """
    text = read_text(path, "give a YAML file")
    check_yaml(text, str(path))
    try:
        # a loader of our own: PyYAML keeps the last of two equal fields, without a word
        config = yaml.load(text, StrictLoader)
    except YAML_ERRORS as error:
        raise UserError(f"{path}: is no YAML ({' '.join(str(error).split())}); correct that line") from error
    if not isinstance(config, dict) or not all(isinstance(name, str) for name in config):
        raise UserError(f"{path}: holds no fields; `eomt configs` lists examples")
    return with_new_names(config)


def class_of(component: Any) -> type[Any]:
    """Return the class that a component of a configuration names with its `class_path`."""
    module, _, name = component["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), name)
