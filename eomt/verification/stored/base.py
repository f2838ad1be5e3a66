"""A base that an adapter is for: its weights, found under the names that the adapter's layers have."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eomt.errors import UserError
from eomt.utils.reading import FIELDS, read_json
from eomt.utils.weight_files import COPY, read_weights
from eomt.verification.stored.low_rank import Pair

MODEL_CONFIG = "config.json"
# names by which heads and tables of tokens share one weight
HEADS = ("lm_head", "embed_out", "output_projection")
TABLES = ("embed_tokens", "wte", "word_embeddings", "shared", "tok_embeddings")
# of kohya's names, which have underscores for dots
FLAT = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_transformer_")
# in names of transformers' models that answer with tokens
WITH_HEAD = ("LM", "ConditionalGeneration", "PreTraining", "Speech", "Vision2Seq", "ImageText")
# the stack of layers in a name, and the most layers of one
STACK = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks)\.(?P<number>\d{1,6})(?=\.)")
MOST_LAYERS = 10_000
# names that are looked at for what stands before them
SAMPLES = 8


@dataclass(frozen=True)
class Base:
    """The weights of a base.

    Attributes:
        source: File or folder.
        tensors: By name.
        is_tied: Whether head and table of tokens are one weight, as its config.json says.
        has_head: Whether its model may have a head that answers with tokens; a classifier has none.
    """

    source: Path
    tensors: dict[str, Tensor]
    is_tied: bool
    has_head: bool = True

    def find(self, names: Iterable[str]) -> dict[str, str]:
        """Return names of an adapter's file -> names here, of those that are here.

        Either may have a prefix that the other lacks, as `backbone.blocks.0` and `blocks.0`: the one is taken that
        finds the most.
        """
        names = list(names)
        found = {name: name for name in names if name in self.tensors}
        index = _ends(self.tensors)
        prefixes = {("", "")}
        left = [name for name in names if name not in found]
        for name in left[:: max(1, len(left) // SAMPLES)]:
            parts = name.split(".")
            for start in range(len(parts) - 1):
                end = ".".join(parts[start:])
                prefix = ".".join(parts[:start])
                prefixes |= {(prefix, other) for other in index.get(end, ()) if not prefix or not other}
        best: dict[str, str] = {}
        for taken, given in sorted(prefixes):
            moved = {name: _moved(name, taken, given) for name in left}
            there = {name: new for name, new in moved.items() if new in self.tensors}
            best = there if len(there) > len(best) else best
        found |= best
        flat = {name.replace(".", "_"): name for name in self.tensors}
        for name in left:
            if name.startswith(FLAT):
                bare = next(name.removeprefix(prefix) for prefix in FLAT if name.startswith(prefix))
                if (key := bare.replace(".", "_")) in flat:
                    found[name] = flat[key]
        return found | self._tied(name for name in names if name not in found)

    def _tied(self, names: Iterable[str]) -> dict[str, str]:
        """Return the weights of heads that the file holds once, as the table of tokens."""
        tables = [name for name in self.tensors if name.endswith(tuple(f"{table}.weight" for table in TABLES))]
        heads = tuple(f"{head}.weight" for head in HEADS)
        return {name: tables[0] for name in names if self.is_tied and tables and name.endswith(heads)}


def _ends(names: Collection[str]) -> dict[str, list[str]]:
    """Return ends of names, from a dot on -> what stands before them in each name."""
    found: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        for start in range(len(parts) - 1):
            found.setdefault(".".join(parts[start:]), []).append(".".join(parts[:start]))
    return found


def _moved(name: str, taken: str, given: str) -> str:
    """Return a name with another prefix; one that lacks the first stays as it is."""
    if taken and not name.startswith(f"{taken}."):
        return name
    rest = name.removeprefix(f"{taken}.") if taken else name
    return f"{given}.{rest}" if given else rest


def read_base(path: Path, wanted: list[str]) -> Base:
    """Return a base whose weights have the names that its model has in memory.

    A file of Hugging Face may have older names than the model that transformers makes of it, which the adapter was
    trained on. Where the names in the file do not fit, transformers reads it.

    Args:
        path: File or folder.
        wanted: Names of weights that are looked for.

    Raises:
        UserError: If it cannot be read.
    """
    path = path.expanduser()
    tensors = read_weights(path)
    fields = _fields(path)
    inner = fields.get("text_config")
    is_tied = bool(fields.get("tie_word_embeddings") or (isinstance(inner, dict) and inner.get("tie_word_embeddings")))
    has_head = _has_head(fields)
    base = Base(path, tensors, is_tied, has_head)
    if fields and len(base.find(wanted)) < len(wanted):
        other = _read_by_transformers(path, fields)
        if other is not None and len(Base(path, other, is_tied, has_head).find(wanted)) > len(base.find(wanted)):
            return Base(path, other, is_tied, has_head)
    return base


def origin(name: str, spans: Any) -> str:
    """Return the name in the base of what PEFT's layer_replication has put elsewhere.

    Args:
        name: In the adapter's file.
        spans: First and last layer (exclusive) of each run of layers that was taken, as adapter_config.json has them.
    """
    is_read = isinstance(spans, list) and all(
        isinstance(span, list) and len(span) == 2 and all(type(end) is int and 0 <= end <= MOST_LAYERS for end in span)
        for span in spans
    )
    match = STACK.search(name)
    if not is_read or match is None:
        return name
    number = int(match["number"])
    for first, last in spans:
        if number < last - first:
            return f"{name[: match.start('number')]}{first + number}{name[match.end('number') :]}"
        number -= max(0, last - first)
    return name


def _has_head(fields: dict[str, Any]) -> bool:
    names = fields.get("architectures")
    if not isinstance(names, list) or not names:
        return True
    return any(isinstance(name, str) and any(kind in name for kind in WITH_HEAD) for name in names)


def _fields(path: Path) -> dict[str, Any]:
    file = path / MODEL_CONFIG
    return read_json(file, FIELDS, COPY) if path.is_dir() and file.is_file() else {}


def _read_by_transformers(folder: Path, fields: dict[str, Any]) -> dict[str, Tensor] | None:
    """Return the state dict of the model that transformers makes of a folder; None if it makes none."""
    # slow to import, and not needed where the names fit
    import transformers

    from eomt.models.weights.transformers import load_model, read_model_config

    named = fields.get("architectures")
    name = named[0] if isinstance(named, list) and named else None
    model_class = getattr(transformers, name, None) if isinstance(name, str) else None
    if not isinstance(model_class, type) or not issubclass(model_class, transformers.PreTrainedModel):
        return None
    try:
        config = read_model_config(str(folder), "base")
        return load_model(model_class, str(folder), config, "base").state_dict()
    except UserError:
        return None


def fits(pair: Pair, weight: Tensor) -> bool:
    """Return whether a pair is of the size of a weight, stored as (out, in) or, as in GPT-2, as (in, out)."""
    shape, wanted = tuple(weight.shape), pair.weight_shape
    if wanted[0] == 0:
        # slices of a fused weight
        rows = sum(b.shape[0] for _, b in pair.blocks) // len(pair.blocks)
        return len(shape) == 2 and shape[1] == wanted[1] and shape[0] % rows == 0
    if shape in (wanted, wanted[::-1] if len(wanted) == 2 else wanted):
        return True
    # a linear pair of a 1 x 1 convolution
    return len(wanted) == 2 and shape[:2] == wanted and all(size == 1 for size in shape[2:])


def relative_change(pair: Pair, weight: Tensor) -> float | None:
    """Return ||W' - W|| / ||W|| of a pair; None where it is not known, as for DoRA beyond linear layers."""
    weight = weight.float()
    size = float(weight.double().norm())
    if size == 0:
        return None
    if pair.magnitude is None:
        return pair.norm() / size
    if weight.ndim != 2 or tuple(weight.shape) != pair.weight_shape or pair.magnitude.numel() != weight.shape[0]:
        return None
    moved = weight + pair.product()
    lengths = moved.norm(dim=1, keepdim=True)
    changed = pair.magnitude.float().reshape(-1, 1) * moved / lengths.clamp(min=torch.finfo(torch.float32).tiny)
    return float((changed - weight).double().norm()) / size
