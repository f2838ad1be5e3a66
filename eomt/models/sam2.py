"""SAM 2 for images, on transformers' `Sam2Model`: prompts in, masks out, gradients all the way to the encoder.

Ravi et al., "SAM 2: Segment Anything in Images and Videos" (arXiv:2408.00714). The memory of the video model is not
part of it.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Sam2Model

from eomt.errors import UserError
from eomt.lora.config import LoRAConfig
from eomt.models.network import Network
from eomt.models.parts.pixels import PixelNormalization
from eomt.models.parts.sam2_outputs import SAM2Features, SAM2Prediction
from eomt.models.weights.sam2.config import (
    SIZES,
    check_image_size,
    is_size,
    read_sam2_config,
    sam2_config,
    set_image_size,
)
from eomt.models.weights.sam2.load import CLASS_PROMPTS_FILE, SAM2Weights, read_sam2, released_sam2
from eomt.models.weights.sam2.names import POSITIONS_TWICE
from eomt.models.weights.sam2.save import save_original, write_hugging_face
from eomt.utils.hub import CONFIG_FILE
from eomt.utils.loaded import mark_loaded
from eomt.utils.paths import PathOrName, expand_name, expand_source

# The attention of the image encoder (fused qkv, and proj), and attention and MLPs of the mask decoder's transformer.
LORA_TARGETS = ("attn", "mask_decoder.transformer")
# As many as an empty prompt has, whose values the class prompts start from.
CLASS_TOKENS = 2
# What a point's label may be, besides 1 (on the object) and 0 (off it).
NO_POINT = -1


class SAM2(Network):
    """SAM 2 that is trained with prompts, or with one learned prompt a class.

    Coordinates are in pixels of the network's input image, (x, y) with x to the right and y down; a whole number is the
    centre of that pixel. A box is (x0, y0, x1, y1), its corners being the outermost pixels inside.

    Args:
        pretrained: true takes SAM 2.1 of `size` from the hub; a text is a repository on the hub, a local folder in
            Hugging Face layout, or an original `.pt` of SAM 2 or 2.1 (any size, which is that of its weights); false
            leaves the weights random.
        size: tiny, small, base_plus, large, or a folder with a config.json of another architecture; what a text in
            `pretrained` holds goes before it.
        img_size: of the images it takes: a side, or (H, W) for images that are not made square (256 x 1600 costs 0.4
            of 1024 x 1024; the released weights have only seen the latter).
        checkpointing: recompute activations in the backward pass: less memory, about a third more time.
        prompt_free: hold class prompts, which `decode_classes` uses.
        num_classes: of the class prompts. From a config it is filled in from the data.

    Attributes:
        class_prompts: one embedding a class, (C, T * D), to be named in `trainable_modules`; None without.
        memory: tensors of the video model that came with an original checkpoint, in its names; written with it again.

    Raises:
        UserError: for weights that cannot be had or do not fit, or sizes that cannot be.
    """

    # adapters are named as in the Hugging Face model
    inner_models = ("model",)
    # full fine-tuning leaves it as it is
    frozen_modules = ("model.prompt_encoder",)
    files = Network.files | {CONFIG_FILE, CLASS_PROMPTS_FILE}

    @property
    def new_modules(self) -> tuple[str, ...]:
        """What no file fills: trained in full wherever adapters are."""
        return ("class_prompts",) if self.prompt_free else ()

    def __init__(
        self,
        pretrained: bool | PathOrName = True,
        size: PathOrName = "large",
        img_size: int | tuple[int, int] = 1024,
        checkpointing: bool = False,
        prompt_free: bool = False,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        pretrained, size = expand_source(pretrained), expand_name(size)
        if not is_size(size) and (pretrained is True or not Path(size).is_dir()):
            raise UserError(f"size: {size!r}, must be {', '.join(SIZES)}, or a folder with config.json to train anew")
        if prompt_free and (num_classes is None or num_classes < 1):
            raise UserError(f"num_classes: {num_classes!r}, must be at least 1; a config gets it from the data")
        self.pretrained, self.size, self.prompt_free, self.num_classes = pretrained, size, prompt_free, num_classes
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.img_size = (int(height), int(width))
        weights = read_sam2(self.base) if pretrained else None
        self.model = _make_model(weights, size)
        self.memory = weights.memory if weights else {}
        check_image_size(self.model.config, self.img_size)
        set_image_size(self.model, self.img_size)
        # else a single mask is another in evaluation than in training
        self.model.mask_decoder.dynamic_multimask_via_stability = False
        self.model.prompt_encoder.requires_grad_(False)
        self.class_prompts = self._make_class_prompts(weights) if prompt_free else None
        if checkpointing:
            self.model.supports_gradient_checkpointing = True  # it does, but does not say so
            with warnings.catch_warnings():
                # its new name is not in all versions of transformers 5
                warnings.simplefilter("ignore", FutureWarning)
                self.model.gradient_checkpointing_enable({"use_reentrant": False})
        # ImageNet's colors, which SAM 2 was trained with
        self.normalize = PixelNormalization()

    @property
    def base(self) -> str:
        """Where the weights come from, for people."""
        if isinstance(self.pretrained, str):
            return self.pretrained
        return released_sam2(self.size) if self.pretrained and is_size(self.size) else f"sam2 {self.size} (random)"

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of mask logits and of mask prompts: a quarter of the image's."""
        return self.model.prompt_encoder.mask_input_size

    def depth_of(self, parameter: str) -> int | None:
        """Layer of a parameter for layer-wise learning-rate decay: 0 embeddings, i + 1 block i; None: the decoder."""
        inner = parameter.removeprefix("model.vision_encoder.")
        if inner == parameter:
            return None
        if inner.startswith("backbone.blocks."):
            return int(inner.split(".")[2]) + 1
        return len(self.model.vision_encoder.backbone.blocks) if inner.startswith("neck.") else 0

    def compile_blocks(self) -> None:
        """Compiles each block of the image encoder in place."""
        for block in self.model.vision_encoder.backbone.blocks:
            block.compile()

    def write(self, folder: Path) -> None:
        """Write Hugging Face's layout into a folder that exists; `pretrained` and transformers open it."""
        write_hugging_face(self, folder)

    def write_original(self, path: Path) -> None:
        """Write a `.pt` with the names of the official code."""
        save_original(self, path)

    @classmethod
    def opens(cls, folder: Path) -> bool:
        return (folder / CONFIG_FILE).is_file()

    def encode(self, image: Tensor) -> SAM2Features:
        """Features of images, with gradients.

        Args:
            image: uint8 (0 to 255) or floating point (0 to 1) RGB, (B, 3, H, W), of the network's `img_size`.

        Raises:
            UserError: for images of another size.
        """
        if tuple(image.shape[-2:]) != self.img_size:
            height, width = self.img_size
            raise UserError(
                f"image: {image.shape[-2]} x {image.shape[-1]} pixels, the network takes {height} x {width}; "
                "resize the image or set img_size"
            )
        # not get_image_embeddings, which is run under no_grad
        stride_4, stride_8, embedding = self.model.vision_encoder(self.normalize(image)).fpn_hidden_states
        decoder = self.model.mask_decoder
        return SAM2Features(
            embedding + self.model.no_memory_embedding.view(1, -1, 1, 1),
            decoder.conv_s1(stride_8),
            decoder.conv_s0(stride_4),
        )

    def decode(
        self,
        features: SAM2Features,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = True,
    ) -> SAM2Prediction:
        """Masks of N objects in each image; a prompt of one object may have points, a box and a mask.

        Args:
            features: of B images.
            points: (B, N, P, 2), x and y in pixels.
            labels: of the points, integers (B, N, P): 1 on the object, 0 off it, -1 no point, -10 padding.
            boxes: (B, N, 4), x0, y0, x1, y1 in pixels.
            masks: logits of an earlier answer, (B, N, 1, h, w) of `mask_size`.
            multimask: three masks for what is ambiguous, as one point is; else one, in training as in evaluation.
        """
        given = [prompt for prompt in (points, boxes, masks) if prompt is not None]
        batch, count = len(features.embedding), given[0].shape[1] if given else 1
        assert all(prompt.shape[:2] == (batch, count) for prompt in given), "prompts of B images, N objects each"
        assert (points is None) == (labels is None), "points and labels go together"
        assert masks is None or tuple(masks.shape[2:]) == (1, *self.mask_size), "masks are (B, N, 1, h, w)"
        if points is None and boxes is None:
            points = torch.zeros(batch, count, 1, 2, device=features.embedding.device)
            labels = torch.full((batch, count, 1), NO_POINT, device=points.device)
        if points is not None:
            points = self._for_prompt_encoder(points)
        if boxes is not None:
            boxes = self._for_prompt_encoder(boxes.unflatten(-1, (2, 2))).flatten(-2)
        if masks is not None:
            # the decoder takes one mask an image: every object gets an image of its own
            features = SAM2Features(*(level.repeat_interleave(count, dim=0) for level in features))
            points, labels, boxes = (None if p is None else p.flatten(0, 1)[:, None] for p in (points, labels, boxes))
            masks = masks.flatten(0, 1).to(self.model.prompt_encoder.no_mask_embed.weight.dtype)
        # bf16 would round coordinates to 4 of 1024 pixels
        with torch.autocast(features.embedding.device.type, enabled=False):
            sparse, dense = self.model.prompt_encoder(points, labels, boxes, masks)
        return self._decode(features, sparse, dense, multimask, (batch, count))

    def decode_classes(self, features: SAM2Features) -> SAM2Prediction:
        """One mask a class, without prompts: N is the number of classes, M is 1."""
        assert self.class_prompts is not None, "needs prompt_free=True"
        batch, count = len(features.embedding), self.class_prompts.num_embeddings
        classes = torch.arange(count, device=features.embedding.device)
        sparse = self.class_prompts(classes).unflatten(-1, (CLASS_TOKENS, -1)).expand(batch, -1, -1, -1)
        _, dense = self.model.prompt_encoder(None, None, None, None)
        return self._decode(features, sparse, dense, False, (batch, count))

    def forward(
        self,
        image: Tensor,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = True,
    ) -> SAM2Prediction:
        """`encode` and `decode` in one."""
        return self.decode(self.encode(image), points, labels, boxes, masks, multimask)

    def _decode(
        self, features: SAM2Features, sparse: Tensor, dense: Tensor, multimask: bool, shape: tuple[int, int]
    ) -> SAM2Prediction:
        """sparse: (B', N', T, D) and dense: (B' or 1, D, h, w), B' as in features, B' N' = B N; shape: (B, N)."""
        with torch.autocast(sparse.device.type, enabled=False):
            positions = self.model.get_image_wide_positional_embeddings()  # (1, D, h, w)
        mask_logits, iou_scores, _, object_logits = self.model.mask_decoder(
            image_embeddings=features.embedding,
            image_positional_embeddings=positions.expand(len(features.embedding), -1, -1, -1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            high_resolution_features=[features.stride_4, features.stride_8],
        )
        return SAM2Prediction(
            *(x.float().reshape(*shape, *x.shape[2:]) for x in (mask_logits, iou_scores, object_logits))
        )

    def _for_prompt_encoder(self, coordinates: Tensor) -> Tensor:
        """(..., 2) in pixels of the image, as if it were square, which is what the prompt encoder thinks."""
        height, width = self.img_size
        if height == width:
            return coordinates
        x, y = coordinates.unbind(-1)
        return torch.stack((x, (y + 0.5) * (width / height) - 0.5), dim=-1)

    def _make_class_prompts(self, weights: SAM2Weights | None) -> nn.Embedding:
        """As read, else all of them the empty prompt: the pre-trained decoder knows what to do with it."""
        empty = self.model.prompt_encoder.not_a_point_embed.weight.detach()
        prompts = nn.Embedding(self.num_classes or 0, CLASS_TOKENS * empty.shape[1])
        read = weights.class_prompts if weights else None
        if read is not None and read.shape != prompts.weight.shape:
            raise UserError(
                f"{self.pretrained}: holds prompts of {len(read)} classes, the data has {self.num_classes}; "
                "give the weights that it was trained from"
            )
        with torch.no_grad():
            prompts.weight.copy_(empty.repeat(1, CLASS_TOKENS) if read is None else read)
        if read is not None:
            mark_loaded(prompts, ["weight"])
        return prompts


def default_lora(prompt_free: bool = False) -> LoRAConfig:
    """Rank 8 on the attention of the image encoder and the transformer of the mask decoder, all else frozen.

    1,473,152 parameters in 128 layers of the large size.

    Args:
        prompt_free: also train the class prompts.
    """
    return LoRAConfig(
        rank=8,
        lora_alpha=16,
        lora_dropout=0.05,
        target_modules=list(LORA_TARGETS),
        freeze_base_model=True,
        trainable_modules=["class_prompts"] if prompt_free else [],
    )


def _make_model(weights: SAM2Weights | None, size: str) -> Sam2Model:
    if weights is None:
        model = Sam2Model(sam2_config(size) if is_size(size) else read_sam2_config(Path(size)))
        for module in model.modules():
            # as in the authors' code: transformers' small values leave a small network deaf to its prompts
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
                module.reset_parameters()
        with torch.no_grad():
            # one matrix in all that was ever trained
            model.get_buffer(POSITIONS_TWICE[0]).copy_(model.get_buffer(POSITIONS_TWICE[1]))
        return model
    with torch.device("meta"):
        model = Sam2Model(weights.config)
    model.load_state_dict(weights.state, assign=True)
    mark_loaded(model, weights.state)
    return model
