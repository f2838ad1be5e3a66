"""What the command line fills into a configuration, and the forms in which it is saved."""

import importlib
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from datamodules.common.splits import SPLITS
from eomt.app.runs import Checkpoint
from eomt.errors import UserError
from eomt.models.weights.eomt.load import classes_in, holds_encoder
from eomt.models.weights.vqa import TOKENIZER, longest_question, tokenizer_source
from eomt.verification.merging import has_layout

# fields that hold paths: saved absolute, so that a run opens from another working directory
PATH_FIELDS = frozenset(
    {
        *("path", "pretrained", "predict_path", "splits", "face_boxes", "test_paths", "outliers"),
        *("train_csv", "val_csv", "test_csv", "predict_csv", "image_folder", "answer_weights"),
        *("vision_model", "text_model", "tokenizer"),
        *(f"{split}_{kind}" for split in SPLITS for kind in ("questions", "annotations", "images")),
    }
)


def read_config(path: Path) -> dict[str, Any]:
    """What stands in a YAML file.

    Raises:
        UserError: if it cannot be read, or holds something else than fields.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a YAML file") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: holds no fields; see configs/ for examples")
    return config


def fill_from_data(config: Namespace, checkpoint: Checkpoint | None, trains: bool) -> None:
    """Fills in what belongs to the data, and for the data the network's image size and tokenizer.

    Args:
        checkpoint: what is opened; the classes of its run are those of data that have none.
        trains: whether the training data will be read.

    Raises:
        UserError: for a `num_classes` or `answers` in the config that are not the data's.
    """
    if config.get("data") is None or config.data.get("class_path") is None:
        return
    network = _init_args(config.model.init_args.get("network"))
    data = _init_args(config.data)
    if network is None or data is None:
        return
    encoder = _init_args(network.get("encoder")) or Namespace()
    sizes = {
        "crop_size": encoder.get("img_size"),
        "img_size": encoder.get("img_size", network.get("img_size")),
        "image_size": network.get("image_size"),
    }
    for name, size in sizes.items():
        if name in data and data[name] is None and size is not None:
            data[name] = size
    if "num_classes" in network:
        _fill_classes(network, data, config.data.class_path, checkpoint.run if checkpoint else None)
    if "answer_head" in network:
        merged = str(checkpoint.path) if checkpoint and checkpoint.kind == "merged" else None
        is_layout = merged is not None and has_layout(Path(merged))
        task = config.model.init_args
        _fill_questions(task, network, data, config.data.class_path, merged if is_layout else None, trains)


def _make_datamodule(class_path: str, data: Namespace) -> Any:
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)(**data.as_dict())


def _fill_classes(network: Namespace, data: Namespace, class_path: str, run: Path | None) -> None:
    datamodule = _make_datamodule(class_path, data)
    given = network.num_classes
    if datamodule.num_classes is None:
        # data to test on alone: the classes are those of the network
        network.num_classes = given or _known_classes(network, run)
        if network.num_classes is None:
            raise UserError("model.network.num_classes: null, and the data has no classes: give it as in training")
        return
    found = datamodule.num_classes
    if given is not None and given != found:
        raise UserError(
            f"model.network.num_classes: {given}, but the data has {found} classes; leave it out, it is filled in"
        )
    network.num_classes = found
    if "class_names" in data and data.class_names is None and data.get("class_map") is None:
        # known from now on, so that a saved run needs no training data to predict
        data.class_names = datamodule.class_names


def _fill_questions(
    task: Namespace, network: Namespace, data: Namespace, class_path: str, merged: str | None, trains: bool
) -> None:
    """Tokenizer, language, the answers of training and, for a type head, the question types."""
    if data.get("tokenizer", "") is None:
        data.tokenizer = tokenizer_source(network.pretrained, network.text_model, network.tokenizer)
    if data.get("max_tokens", 0) is None:
        data.max_tokens = longest_question(merged or network.pretrained, network.text_model)
    if task.language is None:
        task.language = data.get("language")
    datamodule = _make_datamodule(class_path, data)
    if task.type_head_weight and network.question_types is None:
        network.question_types = datamodule.question_types
    if network.answer_head == "generative":
        # only to tell which answers training has not: a decoder may be taught those of other data
        if network.answers is None and trains:
            network.answers = datamodule.answers
        return
    found, given = datamodule.answers, network.answers
    if given not in (None, found):
        raise UserError(
            f"model.network.answers: {len(given)} answers, but the training data has {len(found)}, and they are not "
            "the same; leave it out, it is filled in"
        )
    # known to the data from now on, so that a saved run needs no training data to predict
    network.answers = found
    if "answers" in data:
        data.answers = found


def fill_from_weights(config: Namespace) -> None:
    """Lets the encoder fetch nothing where a whole network's weights are given, which hold the encoder's."""
    network = _init_args(config.model.init_args.get("network")) or Namespace()
    encoder = _init_args(network.get("encoder"))
    if encoder is not None and encoder.get("pretrained") is True and isinstance(network.get("pretrained"), str):
        encoder.pretrained = not holds_encoder(network.pretrained)


def fill_without_data(config: Namespace, run: Path | None, assumed: int | None) -> int | None:
    """Puts a number of classes where neither the data nor the user gives one.

    Args:
        run: the folder that the checkpoint to open belongs to.
        assumed: that number; None refuses to guess.

    Returns:
        The number that was assumed; None if it is known, or there are no classes.

    Raises:
        UserError: if it is not given and none may be assumed.
    """
    network = _init_args(config.model.init_args.get("network"))
    if network is None or "num_classes" not in network or network.num_classes is not None:
        return None
    network.num_classes = _known_classes(network, run)
    if network.num_classes is not None:
        return None
    if assumed is None:
        raise UserError("data: null, so give --model.network.num_classes as it was in training")
    network.num_classes = assumed
    return assumed


def _known_classes(network: Namespace, run: Path | None) -> int | None:
    """The number of classes of a run or, without one, of the EoMT in a local file or folder; None if neither says."""
    pretrained = network.get("pretrained")
    if run is None:
        return classes_in(pretrained) if isinstance(pretrained, str) else None
    model = read_config(run / "config.yaml").get("model") or {}
    return ((model.get("init_args") or {}).get("network") or {}).get("init_args", {}).get("num_classes")


def use_recorded_split(config: Namespace, run: Path) -> bool:
    """Lets a command on a run's checkpoint see the split that the run was made with, whatever was added since.

    Data at another path have a split of their own. Returns whether the record is used.
    """
    record, saved = run / "splits.json", run / "config.yaml"
    data = _init_args(config.get("data"))
    if data is None or "splits" not in data or data.splits is not None or not record.is_file():
        return False
    field = "path" if "path" in data else "train_csv"
    path = ((read_config(saved).get("data") or {}).get("init_args") or {}).get(field)
    same_data = path is not None and Path(path).resolve() == Path(data[field]).resolve()
    if same_data:
        data.splits = str(record)
    return same_data


def starts_from_pissa(config: Namespace) -> bool:
    """Whether the adapters start from PiSSA, which takes something out of the base that their folder adds again."""
    lora = config.model.init_args.get("lora_config")
    return lora is not None and lora.get("init_args", lora).get("init_lora_weights") == "pissa"


def load_nothing(config: Any) -> None:
    """Sets every `pretrained` below `config` to false, for a file that holds every weight, those of a new head too."""
    for name, value in _items(config):
        if name == "pretrained":
            config[name] = False
        elif name == "load_class_head":
            config[name] = True
        elif isinstance(value, Namespace | dict):
            load_nothing(value)


def open_merged(config: Namespace, folder: Path) -> None:
    """Sets a configuration to a merged folder: nothing to adapt or fetch, as the file holds every weight."""
    config.model.init_args.lora_config = None
    load_nothing(config.model)
    if has_layout(folder):
        config.model.init_args.network.init_args.pretrained = str(folder)
    data = _init_args(config.get("data"))
    if data is not None and "tokenizer" in data and (folder / TOKENIZER).is_dir():
        data.tokenizer = str(folder / TOKENIZER)


def with_absolute_paths(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with the paths that exist made absolute, in place."""
    for name, value in _items(config):
        if name in PATH_FIELDS:
            config[name] = _absolute(value)
        elif isinstance(value, dict):
            with_absolute_paths(value)
    return config


def _absolute(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _absolute(path) for name, path in value.items()}
    if isinstance(value, list):
        return [_absolute(path) for path in value]
    return str(Path(value).absolute()) if isinstance(value, str) and Path(value).exists() else value


def stand_alone(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration that opens a merged model: no adapters, nothing to fetch."""
    plain = yaml.safe_load(yaml.safe_dump(config))
    plain["model"]["init_args"]["lora_config"] = None
    load_nothing(plain["model"])
    return plain


def _items(config: Any) -> list[tuple[str, Any]]:
    return list((vars(config) if isinstance(config, Namespace) else config).items())


def _init_args(config: Any) -> Namespace | None:
    return config.get("init_args") if isinstance(config, Namespace) else None
