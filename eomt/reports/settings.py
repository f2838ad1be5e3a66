"""What a run was set to, as far as its `config.yaml` can be read."""

from collections.abc import Mapping
from typing import Any

import yaml

from eomt.errors import shortened
from eomt.reports.run_files import Run
from eomt.utils.yaml_bounds import YAML_ERRORS

# nested settings that are looked at; an alias in YAML can stand for any number
MOST_SETTINGS, MOST_DEPTH = 400, 6
# label, and where it stands; "init_args" is not said
SHOWN = (
    ("task", "model"),
    ("network", "model.network"),
    ("encoder", "model.network.encoder"),
    ("weights", "model.network.pretrained"),
    ("weights of the encoder", "model.network.encoder.pretrained"),
    ("rank", "model.lora_config.rank"),
    ("alpha", "model.lora_config.lora_alpha"),
    ("dropout of adapters", "model.lora_config.lora_dropout"),
    ("adapted", "model.lora_config.target_modules"),
    ("trained in full", "model.lora_config.trainable_modules"),
    ("learning rate", "model.lr"),
    ("data", "data"),
    ("folder of the data", "data.path"),
    ("batch size", "data.batch_size"),
    ("accumulated batches", "trainer.accumulate_grad_batches"),
    ("steps at most", "trainer.max_steps"),
    ("precision", "trainer.precision"),
    ("seed", "seed_everything"),
)
# of data, what changes batches and training images and not what is measured on
OF_TRAINING = (
    *("batch_size", "eval_batch_size", "num_workers", "augment", "scale_range", "color_jitter", "flip", "balanced"),
    *("num_ops", "magnitude", "repeat_factor_threshold", "type_weights", "answer_weights", "outliers"),
    *("outlier_probability", "predict_path", "predict_csv", "predict_question", "questions_per_image", "crop_size"),
    # of the network, which may differ
    *("img_size", "tokenizer", "max_tokens"),
)


# beside the data, what a figure depends on that one training may have and another not
MEASURING = (
    "model",
    *("trainer.limit_val_batches", "trainer.overfit_batches", "model.watch", "model.modes", "model.prompt_seed"),
    *("model.mask_ratio", "model.network.mask_ratio", "model.network.norm_pix_loss"),
)


def settings(run: Run) -> dict[str, str]:
    """Return the settings of a run by their address, without `init_args`; a class stands at the address of its object.

    Empty where the configuration cannot be read.
    """
    try:
        found = yaml.safe_load("\n".join(run.config))
    except YAML_ERRORS:
        return {}
    texts: dict[str, str] = {}
    _collect(found, "", texts, 0)
    return texts


def shown_settings(run: Run) -> list[tuple[str, str]]:
    """Return the settings that stand on a page, with their labels."""
    found = settings(run)
    return [(label, found[address]) for label, address in SHOWN if found.get(address, "null") not in ("null", "")]


def measuring_settings(run: Run) -> dict[str, str]:
    """Return the settings that say which images are measured and how, by their addresses."""

    def counts(address: str) -> bool:
        if address.partition(".")[0] == "data":
            return address.removeprefix("data.").split(".")[0] not in OF_TRAINING
        return address in MEASURING

    return {address: text for address, text in settings(run).items() if counts(address)}


def _collect(value: Any, address: str, texts: dict[str, str], depth: int) -> None:
    if len(texts) >= MOST_SETTINGS or depth > 2 * MOST_DEPTH:
        return
    if isinstance(value, Mapping):
        for name, inner in value.items():
            # an object is a class_path and its init_args, or has them in place of itself
            own = name in ("class_path", "init_args")
            _collect(inner, address if own else f"{address}.{name}".removeprefix("."), texts, depth + 1)
    elif isinstance(value, list):
        leaves = all(not isinstance(inner, list | dict) for inner in value)
        texts[address] = shortened(", ".join(map(_text, value[:50])) if leaves else f"{len(value)} entries", 200)
    else:
        texts[address] = shortened(_text(value), 200)


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
