"""Memory and work of training steps of real size, counted without a GPU.

`python -m benchmarks.accounting [NETWORK [PRECISION [WAY]]]` counts what has these texts in its name, such as "SAM 2",
"bf16" and "least", and adds it to `benchmarks/results`.

Steps run on tensors without values (PyTorch's FakeTensorMode, whose tensors are those of the meta device): every
operation says which shapes it returns, autograd builds its graph, and adapted layers read it, as on real tensors. A
counter sees what is alive, another counts floating-point operations, which stand for time. Tests compare both with real
steps of small networks.

Attention is that of a GPU: the flash kernel in bf16, which keeps query, key, value, output and a number for each row;
the memory-efficient one in fp32, and where there is a mask, which it keeps.

Not counted: workspaces inside operations (cuBLAS, cuDNN), fragmentation, the context of CUDA (a tenth of a GPU is
reserved for these, as in `inspect`). Autocast has the list of operations of the CPU; that of CUDA computes norms of
bf16 inputs in fp32, which matters in SAM 2's mask decoder alone.
"""

import contextlib
import dataclasses
import itertools
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.losses.mask_classification import Assignment
from eomt.models import SAM2, EoMT, ViT
from eomt.models.memory import Memory, set_memory
from eomt.models.sam2 import LORA_TARGETS
from eomt.prompts.coordinates import Prompts
from eomt.tasks import PromptedSegmentation, SemanticSegmentation
from eomt.verification.memory import LiveBytes, Step, StepMemory

CLASSES, QUERIES, PRESENT = 19, 100, 8
HEADS = ["q", "class_head", "mask_head", "upscale"]
GPUS = {"8 GB": 8e9, "24 GB": 24e9, "80 GB": 80e9}
# of a GPU's memory, as in `inspect`
USABLE = 0.9
FLOOR = "native LoRA, floor"
PRECISIONS = ["bf16 autocast", "fp32"]
RESULT = Path(__file__).parent / "results" / "accounting_without_gpu"


def gpu_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """Return attention (B, H, N, D) by the operation that a GPU of compute capability 8.0 or more would choose."""
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
    if attn_mask is None and query.dtype != torch.float32:
        return torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )[0]
    bias = None
    if attn_mask is not None:
        bias = attn_mask
        if attn_mask.dtype == torch.bool:
            bias = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -torch.inf)
        # its rows start at multiples of 16 bytes or more
        padding = -bias.shape[-1] % 16
        bias = F.pad(bias, (0, padding))[..., : bias.shape[-1]].expand(*query.shape[:3], -1)
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )[0]


class Subject(NamedTuple):
    """A network of real size, with its loss.

    Attributes:
        build: Makes the network.
        adapt: Adapts it, if there is a configuration, and makes the loss of a batch.
        pixels: Side of its images.
        targets: What LoRA adapts.
        trained: What is trained in full beside the adapters.
    """

    build: Callable[[int], nn.Module]
    adapt: Callable[[nn.Module, LoRAConfig | None], Step]
    pixels: int
    targets: list[str]
    trained: list[str]


class Classifier(nn.Module):
    """A ViT with a linear head on the mean of its patches.

    Args:
        backbone: Name of the timm model.
        pixels: Side of its images.
    """

    def __init__(self, backbone: str, pixels: int) -> None:
        super().__init__()
        self.encoder = ViT(backbone, (pixels, pixels), pretrained=False)
        self.head = nn.Linear(self.encoder.embed_dim, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, CLASSES) of uint8 images (B, 3, H, W)."""
        return self.head(self.encoder(image).mean((2, 3)))


def classifier(backbone: str) -> Callable[[int], nn.Module]:
    """Return what builds a `Classifier`."""
    return lambda pixels: Classifier(backbone, pixels)


def classification(network: nn.Module, lora: LoRAConfig | None) -> Step:
    """Return the cross entropy of a batch."""
    apply_lora(network, lora)

    def step(batch: dict[str, Any]) -> Tensor:
        return F.cross_entropy(network(batch["image"]).float(), batch["label"])

    return step


def eomt_l(pixels: int) -> nn.Module:
    """Return EoMT on DINOv2-L with patches of 16."""
    encoder = ViT("vit_large_patch14_reg4_dinov2", (pixels, pixels), pretrained=False, patch_size=16)
    network = EoMT(encoder, CLASSES, QUERIES)
    # read by the host, so it must have values
    del network.attn_mask_probs
    network.attn_mask_probs = mock.Mock(tolist=lambda: [1.0] * network.num_blocks)
    return network


def segmentation(network: nn.Module, lora: LoRAConfig | None) -> Step:
    """Return the loss of EoMT's task, with queries assigned to `PRESENT` classes in every image."""
    assert isinstance(network, EoMT)
    criterion = SemanticSegmentation(network, lora).criterion
    layers = network.num_blocks + 1

    def match(costs: Tensor, _: Tensor) -> list[Assignment]:
        classes = torch.arange(PRESENT)
        pairs = classes.expand(layers, -1)
        return [Assignment(classes, pairs, pairs) for _ in costs]

    criterion.match = match  # type: ignore[method-assign]

    def step(batch: dict[str, Any]) -> Tensor:
        predictions = network(batch["image"])
        return criterion([tuple(prediction) for prediction in predictions], batch["mask"])["loss"]

    return step


def sam2_l(pixels: int) -> nn.Module:
    """Return SAM 2 Large."""
    return SAM2(False, "large", (pixels, pixels))


def prompted(network: nn.Module, lora: LoRAConfig | None) -> Step:
    """Return the loss of SAM 2's task: a box and seven corrections for an object of each image."""
    assert isinstance(network, SAM2)
    task = PromptedSegmentation(network, lora)

    def click(prompts: Prompts, logits: Tensor, *_: Any) -> Prompts:
        size = logits.shape[:2]
        return prompts.with_click(torch.zeros(*size, 2), torch.ones(size, dtype=torch.int32))

    def step(batch: dict[str, Any]) -> Tensor:
        features = network.encode(batch["image"])
        prompts = Prompts(None, None, batch["boxes"])
        valid = torch.ones(batch["masks"].shape[:2], dtype=torch.bool)
        with mock.patch("eomt.tasks.prompted_segmentation.add_correction", click):
            return task._losses_of_clicks(features, prompts, batch["masks"], valid)[0]["loss"]

    return step


BLOCKS = ["attention", "mlp"]
SUBJECTS: dict[str, Subject] = {
    "EoMT-L/16, 640 px": Subject(eomt_l, segmentation, 640, BLOCKS, HEADS),
    "EoMT-L/16, 1024 px": Subject(eomt_l, segmentation, 1024, BLOCKS, HEADS),
    "SAM 2 Large, 1024 px": Subject(sam2_l, prompted, 1024, list(LORA_TARGETS), []),
    "ViT-B/16, 224 px": Subject(classifier("vit_base_patch16_224"), classification, 224, BLOCKS, ["head"]),
    "ViT-B/14, 518 px": Subject(classifier("vit_base_patch14_dinov2"), classification, 518, BLOCKS, ["head"]),
    "ViT-L/16, 224 px": Subject(classifier("vit_large_patch16_224"), classification, 224, BLOCKS, ["head"]),
    "ViT-L/14, 518 px": Subject(classifier("vit_large_patch14_dinov2"), classification, 518, BLOCKS, ["head"]),
}


class Way(NamedTuple):
    """A way to train.

    Attributes:
        lora: Fields of the LoRAConfig that differ; None for full fine-tuning.
        memory: `model.memory`.
    """

    lora: dict[str, Any] | None
    memory: Memory = "floor"


WAYS: dict[str, Way] = {
    "full fine-tuning": Way(None),
    "PEFT LoRA, dropout 0.1": Way({"backend": "peft"}),
    "PEFT LoRA, dropout 0": Way({"backend": "peft", "lora_dropout": 0.0}),
    FLOOR: Way({}),
    "native LoRA, less": Way({}, "less"),
    "native LoRA, least": Way({}, "least"),
}


@dataclasses.dataclass(frozen=True)
class Account:
    """What a step takes.

    Attributes:
        kept: Bytes that are held after the forward pass for one image, of what it made.
        memory: From which the peak on any batch follows.
        operations: Floating-point operations of a step on one image, with all that is computed again.
    """

    kept: int
    memory: StepMemory
    operations: int


def make_batch(pixels: int, size: int) -> dict[str, Any]:
    """Return a batch with what every subject needs."""
    box = torch.tensor([pixels // 4, pixels // 4, pixels // 2, pixels // 2])
    return {
        "image": torch.zeros(size, 3, pixels, pixels, dtype=torch.uint8),
        "label": torch.zeros(size, dtype=torch.int64),
        "mask": torch.zeros(size, pixels, pixels, dtype=torch.int64),
        "masks": torch.zeros(size, 1, pixels, pixels, dtype=torch.bool),
        "boxes": box.float().expand(size, 1, 4),
    }


def account(subject: Subject, way: Way, narrow: bool) -> Account:
    """Count a step in bf16 autocast if `narrow`, else in fp32."""
    usual: dict[str, Any] = {"target_modules": subject.targets, "trainable_modules": subject.trained}
    lora = None if way.lora is None else LoRAConfig(**usual | {"freeze_base_model": True} | way.lora)
    with torch.device("meta"):
        network = subject.build(subject.pixels)
    step = subject.adapt(network.train(), lora)
    attention = mock.patch("torch.nn.functional.scaled_dot_product_attention", gpu_attention)
    with without_values(), attention:
        network.to_empty(device="cpu")
        set_memory(network, way.memory)
        kept, *of_one = peaks_of(network, step, make_batch(subject.pixels, 1), narrow)
        _, *of_two = peaks_of(network, step, make_batch(subject.pixels, 2), narrow)
        # adapted layers add into their output, which the counter of operations does not know; it holds tensors itself
        known = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}
        with FlopCounterMode(display=False, custom_mapping=known) as counter:
            peaks_of(network, step, make_batch(subject.pixels, 1), narrow)
    trained = bytes_of(parameter for parameter in network.parameters() if parameter.requires_grad)
    memory = StepMemory(
        weights=bytes_of([*network.parameters(), *network.buffers()]),
        gradients=trained,
        # on CUDA, AdamW takes the root of all second averages at once
        in_optimizer=2 * trained,
        inputs=3 * subject.pixels**2,
        peaks=((of_one[0], of_one[1]), (of_two[0], of_two[1])),
        seconds=0.0,
    )
    return Account(kept, memory, counter.get_total_flops())


def peaks_of(network: nn.Module, step: Step, batch: dict[str, Any], narrow: bool) -> tuple[int, int, int]:
    """Return the bytes that a step holds after its forward pass, and the peaks of its two passes with gradients."""
    with LiveBytes() as meter:
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        before = meter.live
        meter.restart()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = step(batch)
        kept, forward = meter.live - before, meter.peak
        network.zero_grad()
        meter.restart()
        loss.backward()
        backward = meter.peak
        network.zero_grad()
        return kept, forward, backward


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Let tensors within have no values; the seeds of dropout are numbers, and need none."""
    with FakeTensorMode(allow_non_fake_inputs=True), mock.patch("eomt.lora.product.draw_seed", return_value=0):
        yield


def record_of(found: Account) -> dict[str, Any]:
    """Return what is written down of a way to train."""
    one = found.memory.at(1)
    fitting = {gpu: found.memory.largest_batch(round(size * USABLE)) for gpu, size in GPUS.items()}
    peaks = {"peak of one image": one.total, "largest batch": fitting}
    return {"kept": found.kept, **vars(one), **peaks, "operations": found.operations}


def table_of(title: str, records: dict[str, dict[str, Any]]) -> list[str]:
    """Return the lines of a network's table."""
    fitting = " | ".join(f"batch in {gpu}" for gpu in GPUS)
    lines = [f"| {title} | kept GB | peak GB | {fitting} | TFLOP | to the floor |", "|---|" + "---|" * (len(GPUS) + 4)]
    floor = records.get(FLOOR, {}).get("operations")
    for way in (way for way in WAYS if way in records):
        record = records[way]
        sizes = " | ".join(f"{size:,}" for size in record["largest batch"].values())
        memory = f"{record['kept'] / 1e9:.2f} | {record['peak of one image'] / 1e9:.2f}"
        ratio = f"{record['operations'] / floor:.2f}" if floor else ""
        lines.append(f"| {way} | {memory} | {sizes} | {record['operations'] / 1e12:.2f} | {ratio} |")
    return lines


def add_to_results(title: str, way: str, record: dict[str, Any]) -> list[str]:
    """Add a record to the files of results, and return the lines of its table."""
    RESULT.parent.mkdir(exist_ok=True)
    path = RESULT.with_suffix(".json")
    known = json.loads(path.read_text()) if path.is_file() else {}
    known.setdefault(title, {})[way] = record
    path.write_text(json.dumps(known, indent=1) + "\n")
    source = "Counted by `python -m benchmarks.accounting`; nothing was measured on a GPU."
    lines = ["# Meta device accounting, no GPU", "", source]
    for known_title in sorted(known):
        lines += ["", *table_of(known_title, known[known_title])]
    RESULT.with_suffix(".md").write_text("\n".join(lines) + "\n")
    return table_of(title, known[title])


def main(text: str = "", precision: str = "", chosen_way: str = "") -> None:
    """Count the chosen networks and ways, print their tables, and add them to the results."""
    for kind, name in itertools.product(PRECISIONS, SUBJECTS):
        if text not in name or precision not in kind:
            continue
        lines: list[str] = []
        for way in (way for way in WAYS if chosen_way in way):
            found = account(SUBJECTS[name], WAYS[way], kind != "fp32")
            lines = add_to_results(f"{name}, {kind}", way, record_of(found))
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main(*sys.argv[1:])
