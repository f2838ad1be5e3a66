"""Adapters in files, whoever wrote them: PEFT, this package, kohya's scripts, diffusers, loralib or torchtune.

Tensors are told apart by how their names end; a file needs nothing else to be taken apart.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from eomt.errors import UserError, listed
from eomt.lora.fingerprint import FINGERPRINT
from eomt.lora.peft_format import CONFIG_FILE, PREFIX, WEIGHTS_FILE
from eomt.lora.peft_reading import CONFIG, REMEDY, json_field, pattern_value
from eomt.lora.record import RECORD
from eomt.utils.reading import checked, read_json
from eomt.utils.weight_files import COMPILED, INDEX_FILES, PARALLEL, WEIGHT_FILES, Content, read_content, read_weights

BIN_FILE = "adapter_model.bin"
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
# what wrappers put into the middle of names
INNER_WRAPPERS = (COMPILED, "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# what a task of this package puts before the names of its network
NETWORK = "network."
# endings of names: lora_A.weight, lora_A.default.weight, lora_embedding_A, lora_a, loralib's lora_A ...
HALF = re.compile(
    r"(?P<path>.*?)\.?lora_(?P<table>embedding_)?(?P<half>[ABab])(?:\.(?!weight$|bias$)(?P<adapter>[^.]+))?"
    r"(?P<kind>\.weight|\.bias)?"
)
# ... of kohya and diffusers: lora_down.weight, lora.down.weight, to_q_lora.down.weight ...
DOWN_UP = re.compile(r"(?P<path>.*?)[._]lora(?:_linear_layer)?[._](?P<half>down|up|mid)\.weight")
LENGTHS = re.compile(
    r"(?P<path>.*?)\.(?:lora_magnitude_vector(?:\.(?!weight$)(?P<adapter>[^.]+))?(?:\.weight)?|dora_scale|magnitude)"
)
INITIAL = re.compile(r"(?P<path>.*?)\.initial_(?P<half>[ab])")
ALPHA = re.compile(r"(?P<path>.*?)\.alpha")
# PEFT's wrapper of a module that is trained in full: its copy, and the base's
SAVED, ORIGINAL = re.compile(r"\.modules_to_save\.(?P<adapter>[^.]+)\."), ".original_module."
BASE_LAYER = ".base_layer."
ROLES = {"A": "a", "a": "a", "B": "b", "b": "b", "down": "a", "up": "b", "mid": "mid"}


@dataclass(frozen=True)
class StoredAdapter:
    """A file or folder with adapters, or with weights that were merged.

    Attributes:
        source: What was read.
        layout: Whose way of naming it has, in words.
        parts: Path and name of an adapter -> role of a tensor (a, b, mid, alpha, magnitude, bias, initial_a, initial_b)
            -> its name in the file.
        tensors: All of the file, by the names in it.
        full: Names without wrappers -> name in the file, of what belongs to no pair.
        base_copies: The same of the base's own weights beside adapters.
        wrappers: Prefixes that names have -> how many.
        bare_halves: Whether halves are parameters of their own, without ".weight".
        config: Content of adapter_config.json; None without one.
        record: This package's record in a checkpoint.
        metadata: Of the safetensors file.
        files: What was read, for its size.
    """

    source: Path
    layout: str
    tensors: dict[str, Tensor]
    parts: dict[tuple[str, str], dict[str, str]]
    full: dict[str, str]
    base_copies: dict[str, str]
    wrappers: Counter[str] = field(default_factory=Counter)
    bare_halves: bool = False
    config: dict[str, Any] | None = None
    record: dict[str, Any] | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    @property
    def fingerprint(self) -> dict[str, Any]:
        """This package's fingerprint of the base; empty if there is none."""
        if self.record is not None:
            return self.record["fingerprint"]
        return json_field(self.source, self.metadata, "fingerprint", FINGERPRINT)

    @property
    def is_model(self) -> bool:
        """Whether the names of files say that this is a whole model and no adapter."""
        return any(file.name in WEIGHT_FILES + INDEX_FILES or "merged" in file.name for file in self.files)

    def rank_and_factor(self, path: str) -> tuple[int | None, float | None]:
        """Return the rank of a layer and the factor of its B A as the settings have them; None where they do not.

        Raises:
            UserError: If a pattern of adapter_config.json is no regular expression.
        """
        if self.record is not None:
            rank, alpha = _spec(self.record["adapters"].get(path))
            return rank, _factor(rank, alpha, bool(self.record["use_rslora"]))
        if self.config is None:
            return None, None
        rank = pattern_value(self.source, self.config, "rank_pattern", path, self.config.get("r", 8))
        alpha = pattern_value(self.source, self.config, "alpha_pattern", path, self.config.get("lora_alpha", 8))
        return rank, _factor(rank, alpha, bool(self.config.get("use_rslora")))


def _spec(entry: Any) -> tuple[int | None, float | None]:
    """Return rank and alpha of an entry of a record, whose members nobody has looked at."""
    rank, alpha = (entry or [None, None])[:2] if len(entry or []) != 1 else (None, None)
    is_rank = isinstance(rank, int) and not isinstance(rank, bool) and 0 < rank < 2**31
    return (rank if is_rank else None), (float(alpha) if isinstance(alpha, int | float) else None)


def _factor(rank: int | None, alpha: float | None, rslora: bool) -> float | None:
    return alpha / (rank**0.5 if rslora else rank) if rank and alpha is not None else None


def read_adapter(path: Path) -> StoredAdapter:
    """Return what a file or folder holds.

    Raises:
        UserError: If there is nothing to read, it cannot be read, or it is an adapter of another kind than LoRA.
    """
    path = path.expanduser()
    folder, config = path, None
    if path.is_file() and path.name in (WEIGHTS_FILE, BIN_FILE):
        folder = path.parent
    if folder.is_dir() and (folder / CONFIG_FILE).is_file():
        config = read_json(folder / CONFIG_FILE, CONFIG, REMEDY)
        if config.get("peft_type") != "LORA":
            raise UserError(f"{folder}: peft_type is {config.get('peft_type')!r}; only LORA can be read")
    named = [path] if path.is_file() else [folder / name for name in (WEIGHTS_FILE, BIN_FILE, DIFFUSERS_FILE)]
    files = tuple(file for file in named if file.is_file())[:1]
    if files:
        content = read_content(files[0])
    elif config is not None:
        raise UserError(f"{folder}: holds neither {WEIGHTS_FILE} nor {BIN_FILE}; copy the adapter again")
    elif inside := sorted(file.parent.name for file in folder.glob(f"*/{CONFIG_FILE}")):
        raise UserError(f"{folder}: holds no adapter itself; give one of the folders in it: {listed(inside)}")
    else:
        files = tuple(folder / name for name in WEIGHT_FILES + INDEX_FILES if (folder / name).is_file())
        content = Content(read_weights(path), {}, {})
    record = content.beside.get("adaptation")
    if record is not None:
        record = checked(record, RECORD, f"{path}: its record of the adapters", "give another checkpoint")
    return _taken_apart(path, files, content, config, record)


def _taken_apart(
    source: Path, files: tuple[Path, ...], content: Content, config: dict[str, Any] | None, record: Any
) -> StoredAdapter:
    parts: dict[tuple[str, str], dict[str, str]] = {}
    others: dict[str, str] = {}
    wrappers: Counter[str] = Counter()
    spellings: Counter[str] = Counter()
    alphas: dict[str, str] = {}
    for name in content.tensors:
        bare, found = unwrapped(name)
        wrappers.update(found)
        if record is not None:
            bare = bare.removeprefix(NETWORK)
        if role := _role(bare):
            path, adapter, kind, spelling = role
            if kind == "alpha":
                alphas[path] = name
                continue
            parts.setdefault((path, adapter), {})[kind] = name
            spellings[spelling] += kind in ("a", "b")
        else:
            others[bare] = name
    for (path, _), roles in parts.items():
        if path in alphas:
            roles["alpha"] = alphas.pop(path)
    # PiSSA's first pair stands beside PEFT's, which has the adapter's name
    for path, adapter in [key for key, roles in parts.items() if "a" in roles and key[1] and (key[0], "") in parts]:
        parts[path, adapter] |= parts.pop((path, ""))
    # parameters of these names that belong to no pair are the model's own
    for key in [key for key, roles in parts.items() if set(roles) == {"magnitude"}]:
        if parts[key]["magnitude"].endswith(".magnitude"):
            others[f"{key[0]}.magnitude"] = parts.pop(key)["magnitude"]
    others |= {f"{path}.alpha": name for path, name in alphas.items()}
    full, copies = _sorted_out(others, {path for path, _ in parts})
    return StoredAdapter(
        source=source,
        layout=_layout(config, record, content.metadata, spellings),
        tensors=content.tensors,
        parts=parts,
        full=full,
        base_copies=copies,
        wrappers=wrappers,
        bare_halves=spellings["lora_A"] > 0,
        config=config,
        record=record,
        metadata=content.metadata,
        files=files,
    )


def unwrapped(name: str) -> tuple[str, list[str]]:
    """Return a name without what PEFT and wrappers of training put before and into it, and these prefixes."""
    found = []
    while prefix := next((prefix for prefix in (PREFIX, PARALLEL, *INNER_WRAPPERS) if name.startswith(prefix)), ""):
        found.append(prefix)
        name = name.removeprefix(prefix)
    for wrapper in INNER_WRAPPERS:
        if wrapper in name:
            found.append(wrapper)
            name = name.replace(wrapper, "")
    return name, found


def _role(name: str) -> tuple[str, str, str, str] | None:
    """Return path, name of the adapter, role and spelling of an adapter's tensor; None for any other."""
    if match := HALF.fullmatch(name):
        kind = ROLES[match["half"]]
        spelling = f"lora_{match['half']}{match['kind'] or ''}"
        if match["kind"] == ".bias":
            return match["path"], match["adapter"] or "", "bias", spelling
        # PEFT's tables have no ".weight"
        spelling = f"table_{kind}" if match["table"] else spelling
        return match["path"], match["adapter"] or "", f"table_{kind}" if match["table"] else kind, spelling
    if match := DOWN_UP.fullmatch(name):
        return match["path"].replace(".processor.", "."), "", ROLES[match["half"]], "up"
    if match := LENGTHS.fullmatch(name):
        return match["path"], match["adapter"] or "", "magnitude", ""
    if match := INITIAL.fullmatch(name):
        return match["path"], "", f"initial_{match['half']}", ""
    if match := ALPHA.fullmatch(name):
        return match["path"], "", "alpha", ""
    return None


def _sorted_out(others: dict[str, str], adapted: set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return what is trained in full or plain, and what is the base's beside an adapter, by names without wrappers."""
    full: dict[str, str] = {}
    copies: dict[str, str] = {}
    for bare, name in others.items():
        if BASE_LAYER in bare or ORIGINAL in bare:
            copies[bare.replace(BASE_LAYER, ".").replace(ORIGINAL, ".")] = name
        elif bare.rpartition(".")[0] in adapted:
            copies[bare] = name
        else:
            full[SAVED.sub(".", bare)] = name
    return full, copies


def _layout(config: Any, record: Any, metadata: dict[str, str], spellings: Counter[str]) -> str:
    if config is not None:
        return (
            f"adapter folder of eomt {metadata['eomt_version'][:20]}" if "eomt_version" in metadata else "PEFT adapter"
        )
    if record is not None:
        return "checkpoint of eomt"
    if not spellings.total():
        return "weights without adapters"
    names = {
        "lora_A.weight": "PEFT's names, without its config",
        "lora_a.weight": "torchtune",
        "lora_a": "state dict of eomt",
        "lora_A": "loralib",
        "up": "kohya or diffusers",
    }
    return next((text for spelling, text in names.items() if spellings[spelling]), "PEFT's names, without its config")
