"""The cost of a LoRA step: time, and the memory that autograd keeps. `python -m benchmarks.lora_layer [ROUNDS]`.

Two random networks in the size of ViT-S get rank 8 on every linear layer of the blocks, at batch 8, 224 px, fp32, one
thread: timm's with a fused qkv and Hugging Face's DINOv2 with separate q, k, v. This package's layers are compared with
PEFT's (plain `inject_adapter_in_model`), with full fine-tuning, and with the floor: a forward pass, and a backward pass
to the activations alone. Every method that trains something in the first block pays at least this.

A step is forward, loss and backward, without the optimizer. Time is CPU time of the process, which other processes on
the machine disturb less than wall-clock time. The methods take turns in every round, so that all of them see the same
disturbances. Each turn has two steps, of which the second is timed. Kept memory is read from the graph, each storage
once, without parameters and buffers.
"""

import ctypes
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from eomt.lora.activations import make_inputs_again
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.verification.kept import kept_bytes
from eomt.verification.memory import LiveBytes

BATCH, PIXELS, CLASSES, RANK, ALPHA = 8, 224, 10, 8, 16
# the linear layers of the blocks: timm's names, then Hugging Face's
PEFT_TARGETS = (
    r".*blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(fc1|fc2))"
    r"|.*layers?\.\d+\.(attention\.(q_proj|k_proj|v_proj|o_proj)|mlp\.(fc1|fc2))"
)


class Dinov2Classifier(nn.Module):
    """DINOv2 in the size of ViT-S with a linear head, and with the patch size of the timm network for equal work."""

    def __init__(self) -> None:
        super().__init__()
        config = Dinov2Config(hidden_size=384, num_attention_heads=6, patch_size=16, image_size=PIXELS)
        self.backbone = Dinov2Model(config)
        self.head = nn.Linear(384, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits `(B, CLASSES)` of images `(B, 3, H, W)`."""
        return self.head(self.backbone(image).last_hidden_state[:, 0])


def fused() -> nn.Module:
    """Return timm's ViT-S, with query, key and value in one layer."""
    return timm.create_model("vit_small_patch16_224", pretrained=False, num_classes=CLASSES)


def frozen(network: nn.Module) -> nn.Module:
    """Freeze everything but the head."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    return network


def native(network: nn.Module, dropout: float) -> nn.Module:
    """Adapt a network with this package's layers."""
    return apply_lora(network, configured(lora_dropout=dropout))


def less(network: nn.Module) -> nn.Module:
    """Let inputs of activations be made again in the backward pass, too."""
    make_inputs_again(network, True)
    return network


def configured(**changes: Any) -> LoRAConfig:
    """Return the configuration of the comparison with some fields changed."""
    usual: dict[str, Any] = {"rank": RANK, "lora_alpha": ALPHA, "target_modules": ["attention", "mlp"]}
    return LoRAConfig(**usual | {"freeze_base_model": True, "trainable_modules": ["head"]} | changes)


def peft(network: nn.Module, dropout: float, use_dora: bool = False) -> nn.Module:
    """Adapt a network with PEFT's layers, injected by PEFT."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=dropout, target_modules=PEFT_TARGETS, use_dora=use_dora)
    network = inject_adapter_in_model(config, network)
    network.get_submodule("head").requires_grad_(True)
    return network


# what saves memory, beside what does not: fields of the configuration; None for full fine-tuning
LEVERS: dict[str, dict[str, Any] | None] = {
    "everything (full fine-tuning)": None,
    "`[attention, mlp]`": {},
    "`[attention, mlp]`, `memory: less`": {"memory": "less"},
    "`[attention, mlp]`, `memory: least`": {"memory": "least"},
    "`[attention, mlp]`, `rank: 64` instead of 8": {"rank": 64},
    "`[mlp]`": {"target_modules": ["mlp"]},
    "`[attention]`": {"target_modules": ["attention"]},
    "`[attention, mlp]`, `layers: last:6` of 12": {"layers": "last:6"},
    "`[qkv]`, `layers: last:6`": {"target_modules": ["qkv"], "layers": "last:6"},
    "`[attention, mlp]`, `layers: last:3`": {"layers": "last:3"},
    "heads only": {"enabled": False},
    "`[attention, mlp]`, `backend: peft`": {"backend": "peft"},
    "the same with `use_dora: true`, dropout 0": {"backend": "peft", "use_dora": True, "lora_dropout": 0.0},
}
# every method, with the function that prepares a plain network for it
WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "head only": frozen,
    "floor: frozen, gradient to the image": frozen,
    "native LoRA, dropout 0": lambda network: native(network, 0.0),
    "native LoRA, dropout 0, less": lambda network: less(native(network, 0.0)),
    "native LoRA, dropout 0.1": lambda network: native(network, 0.1),
    "PEFT LoRA, dropout 0": lambda network: peft(network, 0.0),
    "PEFT LoRA, dropout 0.1": lambda network: peft(network, 0.1),
    "PEFT DoRA, dropout 0": lambda network: peft(network, 0.0, use_dora=True),
    "full fine-tuning": lambda network: network,
}
FULL = "full fine-tuning"


def make(build: Callable[[], nn.Module], way: str) -> tuple[nn.Module, Tensor]:
    """Return a network in training mode, prepared for one of `WAYS`, and its batch, `(B, 3, H, W)`.

    B of the adapters is not zero: with B = 0, as at the start, some products would have only zeros.
    """
    torch.manual_seed(0)
    network = WAYS[way](build()).train()
    for name, parameter in network.named_parameters():
        if "lora_b" in name.lower():
            nn.init.normal_(parameter, std=0.01)
    image = torch.randn(BATCH, 3, PIXELS, PIXELS, requires_grad=way.startswith("floor"))
    return network, image


def step(network: nn.Module, image: Tensor) -> None:
    """Run forward, loss and backward, and remove the gradients."""
    F.cross_entropy(network(image), torch.arange(len(image)) % CLASSES).backward()
    network.zero_grad(set_to_none=True)
    image.grad = None


def return_freed_memory() -> None:
    """Return freed memory to the system, so that no method starts with memory that another fragmented."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def measure(title: str, build: Callable[[], nn.Module], rounds: int) -> None:
    """Print the table of one network."""
    made = {way: make(build, way) for way in WAYS}
    kept = {way: kept_bytes(network, network(image)).total for way, (network, image) in made.items()}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            return_freed_memory()
            # gets memory from the system again, and creates what is created only once
            step(*made[way])
            start = time.process_time()
            step(*made[way])
            seconds[way].append(time.process_time() - start)
    full = statistics.median(seconds[FULL])
    print(f"| {title} | trained | ms, median (min-max) | share of full | kept MiB | share of full |")
    print("|---|---|---|---|---|---|")
    for way, times in seconds.items():
        trained = sum(parameter.numel() for parameter in made[way][0].parameters() if parameter.requires_grad)
        low, middle, high = (1000 * value for value in (min(times), statistics.median(times), max(times)))
        print(
            f"| {way} | {trained:,} | {middle:.0f} ({low:.0f}-{high:.0f}) | {middle / 1000 / full:.2f} "
            f"| {kept[way] / 2**20:.0f} | {kept[way] / kept[FULL]:.2f} |"
        )


def held_bytes(network: nn.Module, image: Tensor) -> int:
    """Return the bytes that are held after a forward pass, whoever keeps them: checkpointing does so by itself."""
    with LiveBytes() as meter:
        output = network(image)
    assert output.requires_grad
    return meter.live


def print_levers() -> None:
    """Print what is kept, and what gradients and AdamW take, for other targets, in fp32 and under autocast."""
    print("| adapted | activations MiB | with bf16 autocast | gradients + AdamW MiB |")
    print("|---|---|---|---|")
    for name, fields in LEVERS.items():
        changes = dict(fields or {})
        memory = changes.pop("memory", "floor")
        torch.manual_seed(0)
        network = fused() if fields is None else apply_lora(fused(), configured(**changes))
        make_inputs_again(network.train(), memory == "less")
        network.set_grad_checkpointing(memory == "least")
        image = torch.randn(BATCH, 3, PIXELS, PIXELS)
        held = held_bytes(network, image)
        with torch.autocast("cpu", torch.bfloat16):
            held_narrow = held_bytes(network, image)
        trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        print(
            f"| {name} | {held / 2**20:.0f} | {held_narrow / 2**20:.0f} | {3 * 4 * trained / 2**20:.0f} |", flush=True
        )


def main() -> None:
    """Measure, and print the tables; with 0 rounds only that of memory for other targets."""
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    print_levers()
    if not rounds:
        return
    print()
    measure("timm ViT-S, fused qkv", fused, rounds)
    print()
    measure("Hugging Face DINOv2 of ViT-S's size, separate q, k, v", Dinov2Classifier, rounds)


if __name__ == "__main__":
    main()
