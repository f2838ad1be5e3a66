"""A visual question answering network as a folder: config.json, model.safetensors, tokenizer/."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, TypeAdapter
from torch import Tensor, nn
from typing_extensions import TypedDict

from eomt.errors import UserError, listed
from eomt.models.network import stored_once
from eomt.models.weights.checks import check_tensors
from eomt.models.weights.colors import Colors, Deviation, Mean
from eomt.models.weights.files import COPY, read_weights, write_weights
from eomt.models.weights.transformers import Source, read_model_config
from eomt.utils.hub import CONFIG_FILE, WEIGHT_FILES
from eomt.utils.loaded import mark_loaded
from eomt.utils.reading import FIELDS, Text, read_json
from eomt.utils.tokenizer import DEFAULT_LENGTH, holds_tokenizer, usable_positions

TOKENIZER = "tokenizer"
FORMAT = "eomt.models.DeterministicVQA"
# what config.json calls the colors
COLORS = "colours"

AnswerHead = Literal["generative", "classification"]


@dataclass(frozen=True)
class VQALayout:
    """What config.json holds: all that makes the network besides its weights.

    Attributes:
        answer_head: Generative or classification.
        answers: Vocabulary of the training data.
        question_types: What the type head tells apart; None without one.
        img_size: Height and width in pixels.
        fusion_layers: Layers of gated cross-attention.
        colors: Mean and deviation that images are normalized with.
        vision_config: Fields of the vision model's configuration.
        text_config: Likewise of the text model.
    """

    answer_head: AnswerHead
    answers: list[str] | None
    question_types: list[str] | None
    img_size: tuple[int, int]
    fusion_layers: int
    colors: tuple[Colors, Colors]
    vision_config: dict[str, Any]
    text_config: dict[str, Any]


Side = Annotated[int, Field(ge=1, lt=2**31)]


class LayoutFile(TypedDict):
    """Fields of `VQALayout` in config.json; `colours` stands there for any number of years."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    format: str
    answer_head: AnswerHead
    answers: list[str] | None
    question_types: list[Text] | None
    img_size: tuple[Side, Side]
    fusion_layers: Annotated[int, Field(ge=0, lt=2**16)]
    colours: tuple[tuple[Mean, Mean, Mean], tuple[Deviation, Deviation, Deviation]]
    vision_config: dict[str, Any]
    text_config: dict[str, Any]


LAYOUT: TypeAdapter[Any] = TypeAdapter(LayoutFile)


def read_vqa_layout(folder: str) -> VQALayout:
    """Return what the config.json of `folder` holds.

    Raises:
        UserError: If it is no folder of such a network, or cannot be read.
    """
    file = Path(folder) / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"pretrained: {folder} holds no {CONFIG_FILE}; give a folder that this network was merged into")
    if read_json(file, FIELDS, COPY).get("format") != FORMAT:
        raise UserError(f"{file}: is not of {FORMAT}; a vision or text model goes into vision_model or text_model")
    fields: dict[str, Any] = read_json(file, LAYOUT, COPY)
    del fields["format"]
    return VQALayout(colors=fields.pop(COLORS), **fields)


def open_vqa_layout(
    folder: str,
    answer_head: AnswerHead,
    answers: list[str] | None,
    question_types: list[str] | None,
    img_size: tuple[int, int],
    fusion_layers: int,
) -> VQALayout:
    """Return what the config.json of `folder` holds, for a network with these arguments.

    What they leave at their defaults is the folder's. The generative head may be given other answers: a decoder writes
    any.

    Raises:
        UserError: As in `read_vqa_layout`, or if an argument asks for something else.
    """
    stored = read_vqa_layout(folder)
    for name, given, default, kept in (
        ("answer_head", answer_head, "generative", stored.answer_head),
        ("img_size", tuple(img_size), (224, 224), stored.img_size),
        ("fusion_layers", fusion_layers, 2, stored.fusion_layers),
    ):
        if given not in (default, kept):
            raise UserError(f"{name}: {given}, but the network in {folder} has {kept}; leave it out")
    if question_types not in (None, stored.question_types):
        raise UserError(
            f"question_types: [{listed(map(repr, question_types or ()))}], but the network in {folder} has "
            f"[{listed(map(repr, stored.question_types or ()))}]; give data with the same types"
        )
    if answers is None or answers == stored.answers:
        return stored
    if stored.answer_head == "classification":
        raise UserError(f"pretrained: {folder} was trained on another answer vocabulary than the data's; give its data")
    return replace(stored, answers=answers)


def write_vqa(network: nn.Module, layout: VQALayout, tokenizer: Any, folder: Path) -> None:
    """Write a network into a folder that exists; the same tensor under several names is written once.

    Args:
        network: Without adapters.
        layout: What goes into config.json.
        tokenizer: Written beside it; None if there is none.
        folder: Where it goes.
    """
    fields = {COLORS if name == "colors" else name: value for name, value in asdict(layout).items()}
    text = json.dumps({"format": FORMAT} | fields, indent=2, ensure_ascii=False, default=str)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    write_weights(stored_once(network), folder / WEIGHT_FILES[0])
    if tokenizer is not None:
        tokenizer.save_pretrained(folder / TOKENIZER)


def fill_vqa(network: nn.Module, folder: str) -> None:
    """Fill a network with the weights of `folder`.

    Raises:
        UserError: For tensors missing or too many, or of another shape.
    """
    state = read_weights(folder)
    remedy = f"copy {CONFIG_FILE} and {WEIGHT_FILES[0]} of one network"
    check_tensors(state, stored_once(network), folder, f"the network of its {CONFIG_FILE}", remedy)
    # not strict, as it holds one name of tied weights alone
    network.load_state_dict(state, strict=False)
    mark_loaded(network, state)


def tokenizer_source(pretrained: bool | str, text_model: Source, tokenizer: str | None) -> str | None:
    """Return where the tokenizer of a network with these arguments is; None if there is none."""
    if isinstance(pretrained, str) and (Path(pretrained) / TOKENIZER).is_dir():
        return str(Path(pretrained) / TOKENIZER)
    if tokenizer is not None or isinstance(pretrained, str):
        return tokenizer
    if not isinstance(text_model, str):
        return None
    folder = Path(text_model).expanduser()
    return text_model if not folder.is_dir() or holds_tokenizer(folder) else None


def longest_question(pretrained: bool | str, text_model: Source) -> int:
    """Return how many tokens the text model of a network with these arguments takes.

    Raises:
        UserError: If its configuration cannot be read.
    """
    source = read_vqa_layout(pretrained).text_config if isinstance(pretrained, str) else text_model
    return usable_positions(read_model_config(source, "text_model")) or DEFAULT_LENGTH


def answers_hash(answers: list[str] | None) -> Tensor:
    """Return what tells one answer vocabulary from another, order included: SHA-256 as uint8 (32,); zeros for None."""
    if answers is None:
        return torch.zeros(32, dtype=torch.uint8)
    digest = hashlib.sha256(json.dumps(answers, ensure_ascii=False).encode()).digest()
    return torch.tensor(list(digest), dtype=torch.uint8)
