"""EoMT: a plain ViT whose last blocks also carry queries; each query predicts a class and a mask.

Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", CVPR 2025 (arXiv:2503.19108).

What reads and writes weights is imported where it is used: loading timm and transformers' models takes a second.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eomt.errors import UserError
from eomt.lora.adapter_layer import require_merged
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.models.network import Arguments, Network
from eomt.models.vit import ViT
from eomt.models.weights.eomt.settings import read_own_settings
from eomt.utils.hub import CONFIG_FILE, PREPROCESSOR_FILE
from eomt.utils.loaded import mark_loaded
from eomt.utils.paths import PathOrName, expand_source

# queries of an image whose masks are interpolated at once
QUERIES = 32


class Prediction(NamedTuple):
    """Predictions of the queries after a block."""

    mask_logits: Tensor  # (B, Q, h, w), at about a quarter of the image
    class_logits: Tensor  # (B, Q, C + 1); the last class is "no object"


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W) with the channels of each pixel normalized."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ScaleBlock(nn.Module):
    """A block that doubles the resolution of (B, D, h, w).

    `conv1`, a pixel shuffle and `bias` compute a transposed convolution with kernel and stride 2. The form with a 1 x 1
    convolution to four times the channels has the same outputs and gradients, and LoRA and PEFT can adapt it. It starts
    as the transposed convolution does, too.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, 4 * dim, 1, bias=False)
        self.bias = nn.Parameter(torch.empty(dim))
        # PyTorch's rule for the transposed convolution, whose fan-in is 4 dim; conv1's own is dim
        bound = 1 / math.sqrt(4 * dim)
        for parameter in (self.conv1.weight, self.bias):
            nn.init.uniform_(parameter, -bound, bound)
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.norm = LayerNorm2d(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, D, h, w) to (B, D, 2 h, 2 w)."""
        x = F.pixel_shuffle(self.conv1(x), 2).add_(self.bias[:, None, None])
        # x is channels last; on a CPU an activation takes twice the time where it sees another shape than memory has
        x = self.act(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.norm(self.conv2(x))


class EoMT(Network):
    """An encoder, `num_q` queries that join its last `num_blocks` blocks, and heads for classes and masks.

    Args:
        encoder: A ViT.
        num_classes: Number of classes C, without "no object". With a config it comes from the data.
        num_q: Number of queries; at least the number of classes or objects in one image.
        num_blocks: Number of the last blocks that carry the queries (L2 in the paper).
        masked_attn_enabled: Let each query attend only to the patches inside the mask that it predicts before the
            block. `attn_mask_probs` is the probability of doing so, which the task anneals to 0 in training.
        lora_config: Settings of LoRA, for use from Python; a task applies its own.
        pretrained: Weights of a whole EoMT: a folder or file that this package wrote, an official pytorch_model.bin, a
            folder in Hugging Face layout, or a repository on the hub. They include the encoder's weights, so the
            encoder should have `pretrained: false`. Official weights of DINOv3 are an exception: they are differences
            to the encoder's own weights and need them. False starts from the encoder's weights and new heads.
        load_class_head: Load the class head too; False makes a new one for the classes of your data, which is trained
            beside the adapters.

    Attributes:
        class_names: Names in the order of the class head's outputs, for the files that are written; None if they are
            not known.
        pads_images: Whether an image is fitted into one padded window, as for objects and segments, rather than cut
            into several, as for classes of pixels; set by the task, for the files that are written.

    Raises:
        UserError: If sizes do not fit, or weights cannot be read.
    """

    inner_models = ("encoder.backbone",)
    files = Network.files | {CONFIG_FILE, PREPROCESSOR_FILE}
    pads_images = False
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
            raise UserError(f"num_classes: {num_classes!r}; must be at least 1 (with a config it comes from the data)")
        if not 1 <= num_blocks <= len(encoder.blocks):
            raise UserError(f"num_blocks: {num_blocks}; must be 1 to {len(encoder.blocks)}, the blocks of the encoder")
        if num_q < 1:
            raise UserError(f"num_q: {num_q}; must be at least 1")
        dim = encoder.embed_dim
        self.encoder = encoder
        self.num_classes, self.num_blocks, self.masked_attn_enabled = num_classes, num_blocks, masked_attn_enabled
        self.pretrained, self.load_class_head = pretrained, load_class_head
        # the size that the encoder's position grid is made for
        self.img_size, self.in_chans = encoder.img_size, encoder.in_chans
        self.q = nn.Embedding(num_q, dim)
        self.class_head = nn.Linear(dim, num_classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim)
        )
        # up to about a quarter of the image's resolution, by doubling
        doublings = max(1, round(math.log2(encoder.patch_size)) - 2)
        self.upscale = nn.Sequential(*(ScaleBlock(dim) for _ in range(doublings)))
        self.register_buffer("attn_mask_probs", torch.full((num_blocks,), float(masked_attn_enabled)))
        if pretrained is True:
            raise UserError("pretrained: true; must be false, the path of EoMT's weights or a repository")
        if pretrained:
            from eomt.models.weights.eomt.load import load_eomt

            names, settings = load_eomt(self, pretrained, load_class_head)
            mark_loaded(self, names)
            if settings.colors is not None:
                encoder.normalize.set_colors(*settings.colors)
            if load_class_head and settings.class_names and len(settings.class_names) == num_classes:
                self.class_names = list(settings.class_names)
        apply_lora(self, lora_config)

    @property
    def new_modules(self) -> tuple[str, ...]:
        """The class head, if the given weights did not fill it: it is trained in full beside the adapters."""
        return ("class_head",) if self.pretrained and not self.load_class_head else ()

    @property
    def base(self) -> str:
        """Origin of the weights in words: the whole network's, else the encoder's."""
        return self.pretrained if isinstance(self.pretrained, str) else self.encoder.base

    def write(self, folder: Path) -> None:
        """Write into a folder that exists, in Hugging Face layout where it has a form for this network."""
        from eomt.models.weights.eomt.save import write_eomt

        require_merged(self)
        write_eomt(self, folder)

    @classmethod
    def opens(cls, folder: Path) -> bool:
        """Return whether `folder` holds Hugging Face's layout or this package's own."""
        return (folder / CONFIG_FILE).is_file() or read_own_settings(folder) is not None

    @classmethod
    def complete(cls, arguments: Arguments) -> None:
        """Switch the encoder's `pretrained` off where the weights of the whole network include the encoder's."""
        encoder = (arguments.get("encoder") or {}).get("init_args") or {}
        if encoder.get("pretrained") is True and isinstance(arguments["pretrained"], str):
            from eomt.models.weights.eomt.load import holds_encoder

            encoder["pretrained"] = not holds_encoder(arguments["pretrained"])

    @classmethod
    def classes_of(cls, arguments: Arguments) -> int | None:
        """Return the number of classes of the class head in `pretrained`; None without such weights."""
        from eomt.models.weights.eomt.load import classes_in

        pretrained = arguments.get("pretrained")
        return classes_in(pretrained) if isinstance(pretrained, str) else None

    @classmethod
    def without_weights(cls, arguments: Arguments) -> None:
        """Switch `pretrained` off, and fill the class head from the file."""
        super().without_weights(arguments)
        # a file with every weight also has those of a new head
        if "load_class_head" in arguments:
            arguments["load_class_head"] = True

    def compile_blocks(self) -> None:
        """Compile each block of the encoder in place; they share a graph."""
        self.encoder.compile_blocks()

    def depth_of(self, parameter: str) -> int | None:
        """Return the encoder's layer of a parameter; None for queries and heads."""
        inner = parameter.removeprefix("encoder.")
        return None if inner == parameter else self.encoder.depth_of(inner)

    def forward(self, image: Tensor) -> list[Prediction]:
        """Return the predictions of each supervised layer; the last one is final.

        Args:
            image: uint8 (B, C, H, W), the first three channels red, green and blue.

        Returns:
            In training `num_blocks + 1` predictions. In evaluation only the final one and those that masked attention
            needs; there a block is masked if its probability is at least one half, so that answers are deterministic.
        """
        first = len(self.encoder.blocks) - self.num_blocks
        (tokens, grid, rope), done = self.encoder.begin(image, first)
        probabilities = self.mask_probabilities()
        predictions: list[Prediction] = []
        for index in range(done, len(self.encoder.blocks)):
            attn_mask = None
            if index == first:
                tokens = torch.cat((self.q.weight.expand(tokens.shape[0], -1, -1), tokens), dim=1)
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

    def mask_probabilities(self) -> list[float]:
        """Return the probability of masked attention in each of the last blocks."""
        return self.attn_mask_probs.tolist() if self.masked_attn_enabled else [0.0] * self.num_blocks

    def _predict(self, tokens: Tensor, grid: tuple[int, int]) -> Prediction:
        """Return the prediction from tokens (B, Q + prefix + h * w, D)."""
        if (self.remakes_outputs or self.encoder.checkpointing) and torch.is_grad_enabled():
            # at four times the resolution of the tokens, they keep more than all blocks do
            return checkpoint(self._prediction, tokens, grid, use_reentrant=False)
        return self._prediction(tokens, grid)

    def _prediction(self, tokens: Tensor, grid: tuple[int, int]) -> Prediction:
        tokens = self.encoder.norm(tokens)
        num_q = self.q.num_embeddings
        queries, patches = tokens[:, :num_q], tokens[:, num_q + self.encoder.num_prefix_tokens :]
        patches = patches.transpose(1, 2).unflatten(2, grid)
        # copied without the other tokens, so that all of upscale runs channels last and its norms copy nothing
        features = self.upscale(patches.contiguous(memory_format=torch.channels_last))  # (B, D, h', w')
        mask_logits = torch.einsum("bqd,bdhw->bqhw", self.mask_head(queries), features)
        return Prediction(mask_logits, self.class_head(queries))

    @torch.no_grad()
    def _attention_mask(self, mask_logits: Tensor, grid: tuple[int, int], probability: float) -> Tensor:
        """Return bool (B, 1, N, N), true where attention is allowed: a query sees only the patches in its own mask.

        In training each query is masked with `probability`.
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


def class_scores(prediction: Prediction, size: tuple[int, int] | None = None) -> Tensor:
    """Return a score for each class and pixel, (B, C, H, W) in fp32: `class_and_void_scores` without "no object"."""
    return class_and_void_scores(prediction, size)[:, :-1]


def class_and_void_scores(prediction: Prediction, size: tuple[int, int] | None = None) -> Tensor:
    """Return a score for each class, and behind them one for "no object", (B, C + 1, H, W) in fp32.

    The score is the sum over q of softmax(class_q)_c * sigmoid(mask_q) (semantic inference of Mask2Former).

    Args:
        prediction: Predictions of the queries.
        size: Height and width to which mask logits are interpolated; None takes theirs. Logits are interpolated, and
            not scores, as in the code of EoMT's authors and in transformers: a sigmoid before would blur the edges.
    """
    height, width = size or prediction.mask_logits.shape[-2:]
    # bf16 would leave eight bits of a score: thousands of pixels with equal ones
    with torch.autocast(prediction.mask_logits.device.type, enabled=False):
        classes = prediction.class_logits.float().softmax(-1).transpose(1, 2)
        scores = classes.new_zeros(*classes.shape[:2], height * width)
        for image, mask_logits in enumerate(prediction.mask_logits):
            # a few queries at a time: the masks of all of them at the size of an image are many times its scores
            parts = zip(classes[image].split(QUERIES, dim=1), mask_logits.split(QUERIES), strict=True)
            for of_class, logits in parts:
                # channels last: interpolation takes a quarter of the time on a CPU
                logits = logits[None].float().contiguous(memory_format=torch.channels_last)
                masks = F.interpolate(logits, (height, width), mode="bilinear").sigmoid_()
                scores[image].addmm_(of_class, masks[0].flatten(1))
        return scores.unflatten(2, (height, width))


def anneal(fractions: Sequence[tuple[float, float]], progress: float, power: float = 0.9) -> list[float]:
    """Return the probability of masked attention for each block.

    Args:
        fractions: For each block the progress, 0 to 1, at which its annealing starts and ends.
        progress: Share of the run that is done, 0 to 1.
        power: Power of the polynomial from 1 to 0.
    """
    ramps = [min(1.0, max(0.0, (progress - start) / (end - start))) for start, end in fractions]
    return [(1 - ramp) ** power for ramp in ramps]
