"""A tiny tokenizer and tiny networks for the tests of visual question answering."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import AutoConfig, AutoModel, BartForConditionalGeneration, PreTrainedTokenizerFast

from eomt.models.vqa import DeterministicVQA

WORDS = [
    "what",
    "colour",
    "shape",
    "is",
    "there",
    "a",
    "the",
    "?",
    "red",
    "blue",
    "green",
    "circle",
    "square",
    "yes",
    "no",
]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
MAX_LENGTH = 24

VISION: dict[str, Any] = {
    "model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 7,
    "image_size": 28,
}  # fmt: skip
BART: dict[str, Any] = {
    "model_type": "bart", "vocab_size": len(SPECIAL) + len(WORDS), "d_model": 32, "encoder_layers": 1,
    "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32, "max_position_embeddings": MAX_LENGTH,
}  # fmt: skip
BERT: dict[str, Any] = {
    "model_type": "bert", "vocab_size": len(SPECIAL) + len(WORDS), "hidden_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": MAX_LENGTH, "pad_token_id": 1,
}  # fmt: skip


def make_tokenizer(folder: Path) -> Path:
    """A folder with a tokenizer of the words in `WORDS`; <s> 0, <pad> 1, </s> 2, <unk> 3, as BART has them."""
    numbers = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_max_length=MAX_LENGTH,
    )  # fmt: skip
    fast.save_pretrained(folder)
    return folder


ANSWERS = ["red", "blue", "circle", "yes"]
TYPES = ["colour", "shape"]
SIDE = 28
NUM_PATCHES = 16


def make_vqa(**arguments: Any) -> DeterministicVQA:
    """A network of 0.06 M random parameters; `answer_head="classification"` gets `ANSWERS`."""
    settings: dict[str, Any] = {"vision_model": VISION, "text_model": BART, "pretrained": False}
    settings |= {"img_size": (SIDE, SIDE)}
    if arguments.get("answer_head") == "classification":
        settings["answers"] = ANSWERS
    return DeterministicVQA(**(settings | arguments))


def make_questions(batch: int = 3, length: int = 6, images: int | None = None) -> dict[str, Tensor]:
    """Random uint8 images and questions of full length, always the same, as the network's forward takes them."""
    generator = torch.Generator().manual_seed(2)
    size = (images or batch, 3, SIDE, SIDE)
    return {
        "images": torch.randint(0, 256, size, dtype=torch.uint8, generator=generator),
        "input_ids": torch.randint(len(SPECIAL), len(SPECIAL) + len(WORDS), (batch, length), generator=generator),
        "attention_mask": torch.ones(batch, length, dtype=torch.long),
    }


def enlarge_weights(network: torch.nn.Module, seed: int = 0) -> None:
    """Random weights so large that what a network answers depends on all that it sees."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            # of norms the factors stay around 1: else nothing comes through them
            factor = parameter.dim() == 1 and name.endswith("weight")
            parameter.normal_(float(factor), 0.2, generator=generator)


def write_models(folder: Path) -> tuple[str, str]:
    """Folders of a vision model, and of a text model with its tokenizer."""
    torch.manual_seed(3)
    AutoModel.from_config(AutoConfig.for_model(**VISION)).save_pretrained(folder / "vision")
    BartForConditionalGeneration(AutoConfig.for_model(**BART)).save_pretrained(folder / "text")
    make_tokenizer(folder / "text")
    return str(folder / "vision"), str(folder / "text")
