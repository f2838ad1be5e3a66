"""What a LoRA step costs under `torch.compile`. `python -m benchmarks.compiled_step [ROUNDS]`.

Four blocks of timm's ViT-S at batch 4, rank 8 on every linear layer of the blocks, without dropout; the blocks are
compiled one by one as `--model.compile true` does. The floor is the frozen network with a gradient to the image.
Gradients of compiled adapters are compared with those of eager ones. Needs a C++ compiler.
"""

import statistics
import sys
import time
from collections.abc import Iterator

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.lora_layer import CLASSES, frozen, native, peft, return_freed_memory, step
from eomt.verification.kept import kept_bytes

SIZE, DEPTH = 4, 4
FLOOR = "floor"
WAYS = {
    FLOOR: frozen,
    "native LoRA": lambda network: native(network, 0.0),
    "PEFT LoRA": lambda network: peft(network, 0.0),
}


def adapters_of(network: nn.Module) -> Iterator[Tensor]:
    """Yield the gradients of the adapters after a step."""
    F.cross_entropy(network(images()), torch.arange(SIZE) % CLASSES).backward()
    for name, parameter in network.named_parameters():
        if "lora" in name.lower():
            assert parameter.grad is not None
            yield parameter.grad.clone()
    network.zero_grad()


def images(needs_gradient: bool = False) -> Tensor:
    """Return the same images each time, (B, 3, H, W)."""
    return torch.randn(SIZE, 3, 224, 224, generator=torch.Generator().manual_seed(0)).requires_grad_(needs_gradient)


def main() -> None:
    """Measure, and print the table."""
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    made = {}
    for way, prepare in WAYS.items():
        for compiled in (False, True) if way != FLOOR else (False,):
            torch.manual_seed(0)
            network = prepare(timm.create_model("vit_small_patch16_224", depth=DEPTH, num_classes=CLASSES)).train()
            for name, parameter in network.named_parameters():
                if "lora_b" in name.lower():
                    nn.init.normal_(parameter, std=0.01)
            if compiled:
                for block in network.blocks:
                    block.compile()
            made[way, compiled] = network, images(way == FLOOR)
    kept = {key: kept_bytes(network, network(image)).total for key, (network, image) in made.items()}
    seconds: dict[tuple[str, bool], list[float]] = {key: [] for key in made}
    for _ in range(rounds):
        for key, given in made.items():
            return_freed_memory()
            step(*given)
            start = time.process_time()
            step(*given)
            seconds[key].append(time.process_time() - start)
    print("| four blocks of ViT-S | | ms, median (min-max) | kept MiB | largest difference of gradients to eager |")
    print("|---|---|---|---|---|")
    for (way, compiled), times in seconds.items():
        low, middle, high = (1000 * value for value in (min(times), statistics.median(times), max(times)))
        off = ""
        if compiled:
            pairs = zip(*(adapters_of(made[way, mode][0]) for mode in (False, True)), strict=True)
            off = f"{max(float((a - b).norm() / a.norm()) for a, b in pairs):.0e}"
        mode = "compiled" if compiled else "eager"
        print(f"| {way} | {mode} | {middle:.0f} ({low:.0f}-{high:.0f}) | {kept[way, compiled] / 2**20:.0f} | {off} |")


if __name__ == "__main__":
    main()
