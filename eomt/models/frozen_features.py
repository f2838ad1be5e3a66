"""What frozen parts at the start of a network compute: without a graph, and once for the same input."""

import hashlib
import logging
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eomt import __version__
from eomt.errors import UserError
from eomt.lora.adapter_layer import AdapterLayer
from eomt.utils.files import write_file

log = logging.getLogger("eomt")

GIBIBYTE = 2**30
_PLAIN = (bool, int, float, str, tuple, list, type(None))
# stands for an adapter among weights
_SWITCHED = torch.zeros((), requires_grad=True)
# features of one sample, without the batch dimension
Features = tuple[Tensor, ...]


@dataclass
class _Store:
    """Features of one part of a network in one precision, as long as its weights stay what they are."""

    weights: list[Tensor] = field(default_factory=list)
    versions: list[tuple[int, int | None]] = field(default_factory=list)
    samples: dict[bytes, Features] = field(default_factory=dict)
    # name of its folder on the disk; None until the weights are read for it
    name: str | None = None
    # types and shapes of features that were computed, but for the first dimension, which may be that of a text
    form: list[tuple[torch.dtype, torch.Size]] | None = None


class FeatureCache:
    """Features of frozen parts, kept from one epoch to the next on the CPU, in the precision of their computation.

    A sample is known by its content, after all that was done to it, and never by its name. Features are forgotten where
    the weights below them have changed. Samples beyond the limit are computed every time. A copy of a network, or of
    the cache, starts with nothing and keeps nothing.

    Args:
        limit: Memory in GiB; 0 keeps nothing in memory.
        folder: Where features are also written, and found again by other processes and later runs with the same
            weights; None writes none.

    Attributes:
        in_training: Whether training looks features up; not where its images differ every time.
        asked: Samples that training has looked up.
        found: Those of them that were there.
    """

    def __init__(self, limit: float = 0.0, folder: Path | None = None) -> None:
        self.limit = self.free = limit * GIBIBYTE
        self.folder = folder
        self.in_training = True
        self.asked = self.found = 0
        self._stores: dict[tuple[str, int, object], _Store] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureCache, ()

    def __len__(self) -> int:
        return sum(len(store.samples) for store in self._stores.values())

    def bytes_of_parts(self) -> dict[str, int]:
        """Return the bytes that a sample of each part takes in memory, on average."""
        kept = {part: [*map(_size, store.samples.values())] for (part, *_), store in self._stores.items()}
        return {part: sum(sizes) // len(sizes) for part, sizes in kept.items() if sizes}

    def clear(self) -> None:
        """Forget everything, as where weights may have changed unseen by autograd (`parameter.data`)."""
        self._stores, self.free = {}, self.limit

    def is_used(self, training: bool) -> bool:
        """Return whether samples are looked up at all, in training or in evaluation."""
        return (self.limit > 0 or self.folder is not None) and (self.in_training or not training)

    @torch.no_grad()
    def features(
        self,
        part: str,
        samples: Sequence[Tensor],
        module: nn.Module,
        below: Iterable[Tensor],
        compute: Callable[[list[int]], Sequence[Features]],
        training: bool = False,
    ) -> list[Features]:
        """Return the features of samples, of which only those are computed that are not kept.

        Args:
            part: Name of the part, with what tells it from others in `module`.
            samples: Samples, each of any shape.
            module: What holds the part; its settings must not change.
            below: Weights and buffers that the features depend on.
            compute: Returns the features of the samples with the given numbers.
            training: Whether a training step asks.

        Returns:
            The features of each sample, on the device of the first tensor of `below`.
        """
        weights = list(below)
        device = weights[0].device
        store = self._store(part, module, weights)
        keys = [_key(sample) for sample in samples]
        kept = {key: features for key in set(keys) if (features := self._find(store, key)) is not None}
        missing = [index for index, key in enumerate(keys) if key not in kept]
        if training:
            self.asked, self.found = self.asked + len(keys), self.found + len(keys) - len(missing)
        computed: dict[int, Features] = {}
        if missing:
            computed = dict(zip(missing, compute(missing), strict=True))
            for index, features in computed.items():
                self._keep(store, keys[index], features)
        return [
            computed[index] if index in computed else tuple(tensor.to(device) for tensor in kept[key])
            for index, key in enumerate(keys)
        ]

    def _store(self, part: str, module: nn.Module, weights: list[Tensor]) -> _Store:
        device = weights[0].device
        autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
        precision = autocast, torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        store = self._stores.setdefault((part, id(module), precision), _Store())
        # which they are, where, and how often they were written to; held, so that no other can come to their place
        versions = [(tensor.data_ptr(), None if tensor.is_inference() else tensor._version) for tensor in weights]
        same = len(weights) == len(store.weights) and all(map(operator.is_, weights, store.weights))
        if not same or versions != store.versions:
            self.free += sum(_size(features) for features in store.samples.values())
            store.weights, store.versions, store.samples, store.name = weights, versions, {}, None
            store.form = None
        if self.folder is not None and store.name is None:
            start = f"{part} {precision} {device.type} {_versions()} {_settings_of(module)}"
            store.name = _digest_of_weights(start, weights)
        return store

    def _find(self, store: _Store, key: bytes) -> Features | None:
        if key in store.samples or self.folder is None:
            return store.samples.get(key)
        try:
            state = load_file(self._file(store, key))
        except (OSError, SafetensorError):
            # not there, or not whole
            return None
        if set(state) != {str(index) for index in range(len(state))}:
            return None
        features = tuple(state[str(index)] for index in range(len(state)))
        form = [(tensor.dtype, tensor.shape[1:]) for tensor in features]
        if store.form is not None and store.form != form:
            return None
        self._keep_in_memory(store, key, features)
        return features

    def _keep(self, store: _Store, key: bytes, features: Features) -> None:
        in_memory = _size(features) <= self.free and key not in store.samples
        if not in_memory and self.folder is None:
            return
        # copies, since a slice would keep the whole batch in memory
        features = tuple(tensor.detach().to("cpu", copy=True) for tensor in features)
        store.form = [(tensor.dtype, tensor.shape[1:]) for tensor in features]
        self._keep_in_memory(store, key, features)
        if self.folder is not None:
            file = self._file(store, key)
            state = {str(index): tensor.contiguous() for index, tensor in enumerate(features)}
            try:
                write_file(file, lambda path: save_file(state, path))
            except (UserError, OSError, SafetensorError) as error:
                log.warning("feature_folder: %s; features are no longer written there", error)
                self.folder = None

    def _keep_in_memory(self, store: _Store, key: bytes, features: Features) -> None:
        if (size := _size(features)) <= self.free and key not in store.samples:
            self.free -= size
            store.samples[key] = features

    def _file(self, store: _Store, key: bytes) -> Path:
        assert self.folder is not None
        assert store.name is not None
        return self.folder / store.name / f"{key.hex()}.safetensors"


def is_frozen(weights: Iterable[Tensor]) -> bool:
    """Return whether none of the weights from `weights_of` is trained, and no adapter is among them."""
    return not any(tensor.requires_grad for tensor in weights)


def weights_of(*modules: nn.Module) -> list[Tensor]:
    """Return all parameters and buffers of modules; an adapted layer has one more, which counts as trained.

    A frozen adapter may still be switched off and on, which no weight shows.
    """
    inner = [part for module in modules for part in module.modules()]
    found = [tensor for part in inner for tensor in (*part._parameters.values(), *part._buffers.values())]
    adapted = [_SWITCHED for part in inner if isinstance(part, AdapterLayer)]
    return [tensor for tensor in (*found, *adapted) if tensor is not None]


def _size(features: Features) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in features)


def _key(sample: Tensor) -> bytes:
    """Return what only samples of the same type, shape and values have in common."""
    shape = f"{sample.dtype} {tuple(sample.shape)}".encode()
    digest = hashlib.blake2b(shape, digest_size=16)
    digest.update(sample.contiguous().view(torch.uint8).numpy().data)
    return digest.digest()


def _versions() -> list[str]:
    return [__version__, torch.__version__, *(version(name) for name in ("timm", "transformers"))]


def _settings_of(module: nn.Module) -> list[str]:
    """Return all plain values of a module and those inside, such as numbers of heads, which its weights do not show."""
    found = []
    for path, part in module.named_modules():
        values = {name: value for name, value in vars(part).items() if isinstance(value, _PLAIN) and name != "training"}
        # of a model of transformers
        config: Any = getattr(part, "config", None)
        values |= {"config": config.to_dict()} if hasattr(config, "to_dict") else {}
        found.append(f"{path} {type(part).__qualname__} {sorted(values.items())}")
    return found


def _digest_of_weights(start: str, weights: list[Tensor]) -> str:
    digest = hashlib.blake2b(start.encode(), digest_size=16)
    for tensor in weights:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(_key(tensor.detach().cpu().reshape(-1)))
    return digest.hexdigest()
