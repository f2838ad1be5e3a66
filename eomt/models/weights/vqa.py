"""A visual question answering network as a folder: config.json, model.safetensors, tokenizer/."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.models.weights.files import read_weights
from eomt.models.weights.transformers import Colours, Source, read_config
from eomt.utils.hub import WEIGHT_FILES
from eomt.utils.loaded import mark_loaded
from eomt.utils.tokenizer import DEFAULT_LENGTH, holds_tokenizer, usable_positions

CONFIG_FILE = "config.json"
TOKENIZER = "tokenizer"
FORMAT = "eomt.models.DeterministicVQA"


AnswerHead = Literal["generative", "classification"]


@dataclass(frozen=True)
class Layout:
    """What config.json holds: all that makes the network besides its weights; `colours` are mean and deviation."""

    answer_head: AnswerHead
    answers: list[str] | None
    question_types: list[str] | None
    img_size: tuple[int, int]
    fusion_layers: int
    colours: tuple[Colours, Colours]
    vision_config: dict[str, Any]
    text_config: dict[str, Any]


def read_layout(folder: str) -> Layout:
    """What `folder` holds.

    Raises:
        UserError: if it is no folder of such a network, or cannot be read.
    """
    file = Path(folder) / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"pretrained: {folder} holds no {CONFIG_FILE}; give a folder that this network was merged into")
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        if fields.pop("format", None) != FORMAT:
            raise UserError(f"{file}: is not of {FORMAT}; a vision or text model goes into vision_model or text_model")
        height, width = fields.pop("img_size")
        mean, std = fields.pop("colours")
        return Layout(img_size=(height, width), colours=(tuple(mean), tuple(std)), **fields)
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: cannot be read ({type(error).__name__}); copy it again") from error


def open_layout(
    folder: str,
    answer_head: AnswerHead,
    answers: list[str] | None,
    question_types: list[str] | None,
    img_size: tuple[int, int],
    fusion_layers: int,
) -> Layout:
    """What `folder` holds, for a network with these arguments; what they leave at their defaults is the folder's.

    The generative head may be given other answers: a decoder writes any.

    Raises:
        UserError: as in `read_layout`, or if an argument asks for something else.
    """
    stored = read_layout(folder)
    for name, given, default in (
        ("answer_head", answer_head, "generative"),
        ("img_size", tuple(img_size), (224, 224)),
        ("fusion_layers", fusion_layers, 2),
    ):
        if given not in (default, kept := getattr(stored, name)):
            raise UserError(f"{name}: {given}, but the network in {folder} has {kept}; leave it out")
    if question_types not in (None, stored.question_types):
        raise UserError(
            f"question_types: {question_types}, but the network in {folder} has {stored.question_types}; "
            "give data with the same types"
        )
    if answers is None or answers == stored.answers:
        return stored
    if stored.answer_head == "classification":
        raise UserError(f"pretrained: {folder} was trained on another answer vocabulary than the data's; give its data")
    return replace(stored, answers=answers)


def write_layout(network: nn.Module, layout: Layout, tokenizer: Any, folder: Path) -> None:
    """Writes into a folder that exists. The same tensor under several names is written once."""
    text = json.dumps({"format": FORMAT} | asdict(layout), indent=2, ensure_ascii=False, default=str)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    state = {name: value.detach().cpu().contiguous() for name, value in stored_once(network).items()}
    save_file(state, folder / WEIGHT_FILES[0], {"format": "pt"})
    if tokenizer is not None:
        tokenizer.save_pretrained(folder / TOKENIZER)


def fill_from_layout(network: nn.Module, folder: str) -> None:
    """Reads the weights of `folder`.

    Raises:
        UserError: for tensors missing or too many, or of another shape.
    """
    state, own = read_weights(folder), stored_once(network)
    for name in sorted(set(own) | set(state)):
        if name not in state or name not in own:
            found = f"lacks {name!r}" if name not in state else f"holds {name!r}, which the network has not"
            raise UserError(f"{folder}: {found}; copy config.json and model.safetensors of one network")
        if own[name].shape != state[name].shape:
            raise UserError(
                f"{folder}: {name!r} has shape {list(state[name].shape)}, by {CONFIG_FILE} {list(own[name].shape)}; "
                "copy both files of one network"
            )
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
    mark_loaded(network, state)


def stored_once(network: nn.Module) -> dict[str, Tensor]:
    """The state dict without second names of tied weights."""
    first = {name for name, _ in network.named_parameters()}
    second = {name for name, _ in network.named_parameters(remove_duplicate=False)} - first
    return {name: value for name, value in network.state_dict().items() if name not in second}


def tokenizer_source(pretrained: bool | str, text_model: Source, tokenizer: str | None) -> str | None:
    """Where the tokenizer of a network with these arguments is; None if there is none."""
    if isinstance(pretrained, str) and (Path(pretrained) / TOKENIZER).is_dir():
        return str(Path(pretrained) / TOKENIZER)
    if tokenizer is not None or isinstance(pretrained, str):
        return tokenizer
    if not isinstance(text_model, str):
        return None
    folder = Path(text_model).expanduser()
    return text_model if not folder.is_dir() or holds_tokenizer(folder) else None


def longest_question(pretrained: bool | str, text_model: Source) -> int:
    """Tokens that the text model of a network with these arguments takes.

    Raises:
        UserError: if its configuration cannot be read.
    """
    source = read_layout(pretrained).text_config if isinstance(pretrained, str) else text_model
    return usable_positions(read_config(source, "text_model")) or DEFAULT_LENGTH


def answers_hash(answers: list[str] | None) -> Tensor:
    """What tells one answer vocabulary from another, order included: SHA-256 as uint8 (32,); zeros for None."""
    if answers is None:
        return torch.zeros(32, dtype=torch.uint8)
    digest = hashlib.sha256(json.dumps(answers, ensure_ascii=False).encode()).digest()
    return torch.tensor(list(digest), dtype=torch.uint8)
