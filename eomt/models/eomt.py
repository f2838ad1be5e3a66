"""EoMT: a plain ViT whose last blocks also carry queries, each of which answers with a class and a mask.

Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", CVPR 2025 (arXiv:2503.19108).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.lora.adapter_layer import require_merged
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.models.network import Arguments, Network
from eomt.models.vit import ViT
from eomt.models.weights.eomt.load import classes_in, holds_encoder, load_eomt
from eomt.models.weights.eomt.save import write_eomt
from eomt.models.weights.eomt.settings import read_own_settings
from eomt.utils.hub import CONFIG_FILE, PREPROCESSOR_FILE
from eomt.utils.loaded import mark_loaded
from eomt.utils.paths import PathOrName, expand_source


class Prediction(NamedTuple):
    """What the queries say after some block."""

    mask_logits: Tensor  # (B, Q, h, w), at about a quarter of the image
    class_logits: Tensor  # (B, Q, C + 1), the last one "no object"


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ScaleBlock(nn.Module):
    """Doubles the resolution of (B, D, h, w).

    `conv1` and `bias` are a transposed convolution of kernel and stride 2, written as a 1 x 1 convolution to four
    times the channels and a pixel shuffle: the same function and gradients, in a form that LoRA and PEFT can adapt.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, 4 * dim, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(dim))
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.norm = LayerNorm2d(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_shuffle(self.conv1(x), 2).add_(self.bias[:, None, None])
        return self.norm(self.conv2(self.act(x)))


class EoMT(Network):
    """An encoder, `num_q` queries that join its last `num_blocks` blocks, and heads for classes and masks.

    Args:
        encoder: a ViT.
        num_classes: C, without "no object". From a config it is filled in from the data.
        num_q: number of queries; at least the number of classes in one image.
        num_blocks: L2, the blocks that carry the queries.
        masked_attn_enabled: let each query attend only to where the mask of the block before says it is. The
            probability of doing so is `attn_mask_probs`, which the task anneals to 0 during training.
        lora_config: for use from Python; a task applies its own.
        pretrained: weights of a whole EoMT: a folder or file as this package writes them, an official
            pytorch_model.bin, a folder in Hugging Face layout or a repository on the hub. They hold the encoder's, so
            give it `pretrained: false`; but official ones of DINOv3 are changes to the encoder's own weights and need
            them. False starts from the encoder's weights and new heads.
        load_class_head: false starts a new class head for the classes of your data, trained wherever adapters are.

    Attributes:
        class_names: in the order of the class head's outputs, for the files that are written; None if not known.

    Raises:
        UserError: for sizes that do not fit or weights that cannot be read.
    """

    inner_models = ("encoder.backbone",)
    files = Network.files | {CONFIG_FILE, PREPROCESSOR_FILE}
    attn_mask_probs: Tensor

    def __init__(
        self,
        encoder: ViT,
        num_classes: int | None = None,
        num_q: int = 100,
        num_blocks: int = 4,
        masked_attn_enabled: bool = True,
        lora_config: LoRAConfig | None = None,
        pretrained: bool | PathOrName = False,
        load_class_head: bool = True,
    ) -> None:
        super().__init__()
        pretrained = expand_source(pretrained)
        if num_classes is None or num_classes < 1:
            raise UserError(f"num_classes: {num_classes!r}, must be at least 1; a config gets it from the data")
        if not 1 <= num_blocks <= len(encoder.blocks):
            raise UserError(f"num_blocks: {num_blocks}, must be 1 to {len(encoder.blocks)}, the blocks of the encoder")
        if num_q < 1:
            raise UserError(f"num_q: {num_q}, must be at least 1")
        dim = encoder.embed_dim
        self.encoder = encoder
        self.num_classes, self.num_blocks, self.masked_attn_enabled = num_classes, num_blocks, masked_attn_enabled
        self.pretrained, self.load_class_head = pretrained, load_class_head
        # that the encoder's position grid is made for
        self.img_size = encoder.img_size
        self.q = nn.Embedding(num_q, dim)
        self.class_head = nn.Linear(dim, num_classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim)
        )
        # to a quarter of the image's resolution, as near as doubling comes
        doublings = max(1, round(math.log2(encoder.patch_size)) - 2)
        self.upscale = nn.Sequential(*(ScaleBlock(dim) for _ in range(doublings)))
        self.register_buffer("attn_mask_probs", torch.full((num_blocks,), float(masked_attn_enabled)))
        if pretrained is True:
            raise UserError("pretrained: true, EoMT takes false, the path of its weights or a repository")
        if pretrained:
            names, settings = load_eomt(self, pretrained, load_class_head)
            mark_loaded(self, names)
            if settings.colors is not None:
                encoder.normalize.set_colors(*settings.colors)
            if load_class_head and settings.class_names and len(settings.class_names) == num_classes:
                self.class_names = list(settings.class_names)
        apply_lora(self, lora_config)

    @property
    def new_modules(self) -> tuple[str, ...]:
        """What no file fills though one was given: trained in full wherever adapters are."""
        return ("class_head",) if self.pretrained and not self.load_class_head else ()

    @property
    def base(self) -> str:
        """Where the weights come from, for people."""
        return self.pretrained if isinstance(self.pretrained, str) else self.encoder.base

    def write(self, folder: Path) -> None:
        """Write into a folder that exists, in Hugging Face layout where that can be; `pretrained` opens it."""
        require_merged(self)
        write_eomt(self, folder)

    @classmethod
    def opens(cls, folder: Path) -> bool:
        return (folder / CONFIG_FILE).is_file() or read_own_settings(folder) is not None

    @classmethod
    def complete(cls, arguments: Arguments) -> None:
        """Let the encoder fetch nothing where a whole network's weights are given, which hold the encoder's."""
        encoder = (arguments.get("encoder") or {}).get("init_args") or {}
        if encoder.get("pretrained") is True and isinstance(arguments["pretrained"], str):
            encoder["pretrained"] = not holds_encoder(arguments["pretrained"])

    @classmethod
    def classes_of(cls, arguments: Arguments) -> int | None:
        pretrained = arguments.get("pretrained")
        return classes_in(pretrained) if isinstance(pretrained, str) else None

    @classmethod
    def without_weights(cls, arguments: Arguments) -> None:
        super().without_weights(arguments)
        # a file that holds every weight holds those of a new head too
        arguments["load_class_head"] = True

    def compile_blocks(self) -> None:
        """Compiles each block in place: they share a graph, so it takes seconds and not minutes."""
        for block in self.encoder.blocks:
            block.compile()

    def depth_of(self, parameter: str) -> int | None:
        """Layer of a parameter for layer-wise learning-rate decay: 0 embeddings, i + 1 block i; None for heads."""
        prefix = "encoder.backbone."
        if not parameter.startswith(prefix):
            return None
        inner = parameter.removeprefix(prefix)
        if inner.startswith("blocks."):
            return int(inner.split(".")[1]) + 1
        return len(self.encoder.blocks) if inner.startswith("norm.") else 0

    def forward(self, image: Tensor) -> list[Prediction]:
        """Predictions of each supervised layer, the last one final.

        Args:
            image: uint8 RGB (B, 3, H, W).

        Returns:
            In training `num_blocks + 1` predictions. In evaluation only those that masked attention needs, and the
            final one; a block is masked there if its probability is at least one half, so that the answer does not
            depend on chance.
        """
        tokens, grid, rope = self.encoder.embed(image)
        first = len(self.encoder.blocks) - self.num_blocks
        probabilities = self.attn_mask_probs.tolist() if self.masked_attn_enabled else [0.0] * self.num_blocks
        predictions: list[Prediction] = []
        for index in range(len(self.encoder.blocks)):
            attn_mask = None
            if index == first:
                tokens = torch.cat((self.q.weight.expand(len(tokens), -1, -1), tokens), dim=1)
            if index >= first:
                probability = probabilities[index - first]
                masked = probability > 0 if self.training else probability >= 0.5
                if self.training or masked:
                    predictions.append(self._predict(tokens, grid))
                if masked:
                    attn_mask = self._attention_mask(predictions[-1].mask_logits, grid, probability)
            tokens = self.encoder.run_block(index, tokens, attn_mask, rope)
        predictions.append(self._predict(tokens, grid))
        return predictions

    def _predict(self, tokens: Tensor, grid: tuple[int, int]) -> Prediction:
        """tokens: (B, Q + prefix + h * w, D)."""
        tokens = self.encoder.norm(tokens)
        num_q = self.q.num_embeddings
        queries, patches = tokens[:, :num_q], tokens[:, num_q + self.encoder.num_prefix_tokens :]
        patches = patches.transpose(1, 2).unflatten(2, grid)
        # without the other tokens in between, all of upscale runs channels last and copies nothing for its norms
        features = self.upscale(patches.contiguous(memory_format=torch.channels_last))  # (B, D, h', w')
        mask_logits = torch.einsum("bqd,bdhw->bqhw", self.mask_head(queries), features)
        return Prediction(mask_logits, self.class_head(queries))

    @torch.no_grad()
    def _attention_mask(self, mask_logits: Tensor, grid: tuple[int, int], probability: float) -> Tensor:
        """Bool (B, 1, N, N), true where attention is allowed: queries see the patches of their own mask only.

        In training a query is masked with `probability`.
        """
        batch, num_q = mask_logits.shape[:2]
        skip = num_q + self.encoder.num_prefix_tokens
        size = skip + grid[0] * grid[1]
        allowed = F.interpolate(mask_logits.float(), grid, mode="bilinear").flatten(2) > 0  # (B, Q, h * w)
        if self.training and probability < 1:
            allowed |= torch.rand(batch, num_q, 1, device=allowed.device) > probability
        attn_mask = torch.ones(batch, 1, size, size, dtype=torch.bool, device=allowed.device)
        attn_mask[:, 0, :num_q, skip:] = allowed
        return attn_mask


def class_scores(prediction: Prediction) -> Tensor:
    """(B, C, h, w): how much of each known class the queries see in each place, in fp32.

    sum over q of softmax(class_q)_c * sigmoid(mask_q), without "no object" (Mask2Former's semantic inference).
    """
    classes = prediction.class_logits.float().softmax(-1)[..., :-1]
    return torch.einsum("bqc,bqhw->bchw", classes, prediction.mask_logits.float().sigmoid())


def anneal(fractions: Sequence[tuple[float, float]], progress: float, power: float = 0.9) -> list[float]:
    """Probability of masked attention per block.

    Args:
        fractions: per block the parts of the run where its annealing starts and ends.
        progress: part of the run that is done, 0 to 1.
        power: of the polynomial from 1 to 0.
    """
    ramps = [min(1.0, max(0.0, (progress - start) / (end - start))) for start, end in fractions]
    return [(1 - ramp) ** power for ramp in ramps]
