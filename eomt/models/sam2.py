"""SAM 2 for images, with transformers' `Sam2Model`: from prompts to masks, with gradients down to the encoder.

Ravi et al., "SAM 2: Segment Anything in Images and Videos" (arXiv:2408.00714). The memory of the video model is left
out.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Sam2Model

from eomt.errors import UserError
from eomt.lora.config import LoRAConfig
from eomt.models.frozen_features import Features, is_frozen, weights_of
from eomt.models.network import Arguments
from eomt.models.parts.pixels import PixelNormalization
from eomt.models.parts.recomputing import RecomputingNetwork
from eomt.models.parts.sam2_decoder import predict_masks, use_remade_sums
from eomt.models.parts.sam2_encoder import Stage, features_of, joined, stages, use_lean_blocks
from eomt.models.parts.sam2_outputs import POOLED, SAM2Features, SAM2Prediction
from eomt.models.weights.sam2.config import (
    SIZES,
    as_pair,
    check_image_size,
    image_size_of,
    is_size,
    read_sam2_config,
    sam2_config,
    set_image_size,
    use_single_mask,
)
from eomt.models.weights.sam2.load import CLASS_PROMPTS_FILE, SAM2Weights, read_image_size, read_sam2, released_sam2
from eomt.models.weights.sam2.names import POSITIONS_TWICE
from eomt.models.weights.sam2.save import save_original, write_hugging_face
from eomt.utils.hub import CONFIG_FILE, PROCESSOR_FILE
from eomt.utils.loaded import mark_loaded
from eomt.utils.paths import PathOrName, expand_name, expand_source

# attention of the image encoder (fused qkv, and proj), and attention and MLPs of the mask decoder's transformer
LORA_TARGETS = ("attn", "mask_decoder.transformer")
# tokens of a class prompt: as many as an empty prompt has, since class prompts start from its values
CLASS_TOKENS = 2
# what a prompt-free network has beside SAM 2
CLASS_MODULES = ("class_prompts", "presence")
# deviations of the empty prompt in a one of `class_prompts`
PROMPT_SCALE = 10
# log-odds of "the image shows the class" before training: every class starts as absent
ABSENT = -2.0
# label of a point that is none; the others are 1 (on the object) and 0 (off it)
NO_POINT = -1


class SAM2(RecomputingNetwork):
    """SAM 2, trained with prompts or with one learned prompt for each class.

    Coordinates are in pixels of the input image, (x, y) with x to the right and y down; a whole number is the center of
    a pixel. A box is (x0, y0, x1, y1); its corners are the outermost pixels inside.

    Args:
        pretrained: True takes SAM 2.1 of `size` from the hub. A text is a repository on the hub, a local folder in
            Hugging Face layout, or an original `.pt` of SAM 2 or 2.1 of any size. False leaves the weights random.
        size: Size of the model: tiny, small, base_plus, large, or a folder with a config.json of another architecture.
            Where `pretrained` is a text, its own size is used.
        img_size: Size of the input images: a side, or (H, W) for images that are not square (256 x 1600 costs 0.4 of
            1024 x 1024; the released weights were trained only on the latter). None takes that of the weights, which
            is 1024 unless they are a folder that says otherwise.
        checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        prompt_free: Learn a prompt for each class, which `decode_classes` uses.
        num_classes: Number of class prompts. With a config it comes from the data.

    Attributes:
        class_prompts: One embedding for each class, (C, T * D), see `class_tokens`; None if not `prompt_free`.
        presence: What tells from features of the whole image which classes it shows; None if not `prompt_free`.
        memory: Tensors of the video model that an original checkpoint held, with their names; written into a `.pt`
            again.

    Raises:
        UserError: If weights are not available or do not fit, or a size is impossible.
    """

    # adapters have the names of the Hugging Face model
    inner_models = ("model",)
    # full fine-tuning does not change it
    frozen_modules = ("model.prompt_encoder",)
    files = RecomputingNetwork.files | {CONFIG_FILE, PROCESSOR_FILE, CLASS_PROMPTS_FILE}

    @property
    def new_modules(self) -> tuple[str, ...]:
        """The class prompts and their presence head, if there are any: they are trained in full beside the adapters."""
        return CLASS_MODULES if self.prompt_free else ()

    def __init__(
        self,
        pretrained: bool | PathOrName = True,
        size: PathOrName = "large",
        img_size: int | tuple[int, int] | None = None,
        checkpointing: bool = False,
        prompt_free: bool = False,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        pretrained, size = expand_source(pretrained), expand_name(size)
        if not is_size(size) and (pretrained is True or not Path(size).is_dir()):
            raise UserError(
                f"size: {size!r}; must be {', '.join(SIZES)}, or a folder with a config.json for random weights"
            )
        if prompt_free and (num_classes is None or num_classes < 1):
            raise UserError(f"num_classes: {num_classes!r}; must be at least 1 (with a config it comes from the data)")
        self.pretrained, self.size, self.prompt_free, self.num_classes = pretrained, size, prompt_free, num_classes
        weights = read_sam2(self.base) if pretrained else None
        self.model = _make_model(weights, size)
        self.img_size = image_size_of(self.model.config) if img_size is None else as_pair(img_size)
        self.memory = weights.memory if weights else {}
        check_image_size(self.model.config, self.img_size)
        set_image_size(self.model, self.img_size)
        use_single_mask(self.model)
        self.model.prompt_encoder.requires_grad_(False)
        self.class_prompts: nn.Embedding | None = None
        self.presence: nn.Linear | None = None
        if prompt_free:
            self.class_prompts, self.presence = self._make_class_modules(weights)
        self.model.supports_gradient_checkpointing = True  # it does support it, but its class does not say so
        if checkpointing:
            self.checkpointing = True
        # with ImageNet's mean and deviation, as SAM 2 was trained
        self.normalize = PixelNormalization()

    @property
    def base(self) -> str:
        """Origin of the weights in words."""
        if isinstance(self.pretrained, str):
            return self.pretrained
        return released_sam2(self.size) if self.pretrained and is_size(self.size) else f"sam2 {self.size} (random)"

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of mask logits and mask prompts: a quarter of the image's."""
        return self.model.prompt_encoder.mask_input_size

    def depth_of(self, parameter: str) -> int | None:
        """Return 0 for embeddings, i + 1 for block i and the last for the neck; None outside of the image encoder."""
        inner = parameter.removeprefix("model.vision_encoder.")
        if inner == parameter:
            return None
        if inner.startswith("backbone.blocks."):
            return int(inner.split(".")[2]) + 1
        return len(self.model.vision_encoder.backbone.blocks) if inner.startswith("neck.") else 0

    def compile_blocks(self) -> None:
        """Compile each block of the image encoder in place."""
        for block in self.model.vision_encoder.backbone.blocks:
            block.compile()

    def write(self, folder: Path) -> None:
        """Write Hugging Face's layout into a folder that exists; `pretrained` and transformers open it."""
        write_hugging_face(self, folder)

    def write_original(self, path: Path) -> None:
        """Write a `.pt` file with the tensor names of the official code."""
        save_original(self, path)

    @classmethod
    def opens(cls, folder: Path) -> bool:
        """Return whether `folder` holds Hugging Face's layout."""
        return (folder / CONFIG_FILE).is_file()

    @classmethod
    def complete(cls, arguments: Arguments) -> None:
        """Fill in the image size, so that a saved configuration has it."""
        arguments["img_size"] = cls.img_size_of(arguments)

    @classmethod
    def img_size_of(cls, arguments: Arguments) -> Any:
        """Return the configured image size, or that of the weights."""
        given, pretrained, size = (arguments.get(name) for name in ("img_size", "pretrained", "size"))
        if given is not None:
            return given
        found = None
        if isinstance(pretrained, str):
            found = read_image_size(expand_source(pretrained))
        elif pretrained is False and size is not None and not is_size(size):
            found = image_size_of(read_sam2_config(Path(expand_name(size))))
        return list(found or image_size_of(sam2_config("large")))

    def encode(self, image: Tensor) -> SAM2Features:
        """Return features of images, with gradients.

        Args:
            image: RGB images of `img_size`, uint8 (0 to 255) or floating point (0 to 1), (B, 3, H, W).

        Raises:
            UserError: If the images have another size.
        """
        if tuple(image.shape[-2:]) != self.img_size:
            height, width = self.img_size
            raise UserError(
                f"image: {image.shape[-2]} x {image.shape[-1]} pixels, the network takes {height} x {width}; "
                "resize the image or set img_size"
            )
        # get_image_embeddings would run under no_grad
        model, encoder = self.model, self.model.vision_encoder
        below = weights_of(self.normalize, encoder.backbone)
        behind = [model.no_memory_embedding]
        behind += weights_of(encoder.neck, model.mask_decoder.conv_s0, model.mask_decoder.conv_s1)
        if is_frozen(below) and not is_frozen(behind):
            maps = self.frozen_features("blocks of the image encoder", image, encoder, below, self._maps)
            found = [Stage(x, (x.shape[1], x.shape[2])) for x in maps]
            return features_of(model, found, pools=self.prompt_free)

        def encode(images: Tensor) -> Features:
            return features_of(model, stages(encoder.backbone, self.normalize(images)), pools=self.prompt_free)

        part = "image encoder, pooled" if self.prompt_free else "image encoder"
        return SAM2Features(*self.frozen_features(part, image, encoder, below + behind, encode))

    def _maps(self, image: Tensor) -> Features:
        """Return what the stages of the image encoder return, (B, h, w, D) each."""
        found = stages(self.model.vision_encoder.backbone, self.normalize(image))
        return tuple(joined(stage) for stage in found)

    def decode(
        self,
        features: SAM2Features,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = True,
    ) -> SAM2Prediction:
        """Return masks of N objects in each image; the prompt of an object may be points, a box and a mask together.

        Args:
            features: Features of B images.
            points: Points (B, N, P, 2), x and y in pixels.
            labels: Labels of the points, integers (B, N, P): 1 on the object, 0 off it, -1 no point, -10 padding.
            boxes: Boxes (B, N, 4), x0, y0, x1, y1 in pixels.
            masks: Mask logits of an earlier prediction, (B, N, 1, h, w) of `mask_size`.
            multimask: Predict three masks, for ambiguous prompts such as one point; else one, in training as in
                evaluation.
        """
        given = [prompt for prompt in (points, boxes, masks) if prompt is not None]
        batch, count = features.embedding.shape[0], given[0].shape[1] if given else 1
        assert all(prompt.shape[:2] == (batch, count) for prompt in given), "prompts of B images, N objects each"
        assert (points is None) == (labels is None), "points and labels go together"
        assert masks is None or tuple(masks.shape[2:]) == (1, *self.mask_size), "masks are (B, N, 1, h, w)"
        if points is None and boxes is None:
            points = torch.zeros(batch, count, 1, 2, device=features.embedding.device)
            labels = torch.full((batch, count, 1), NO_POINT, device=points.device)
        if points is not None:
            points = self.for_prompt_encoder(points)
        if boxes is not None:
            boxes = self.for_prompt_encoder(boxes.unflatten(-1, (2, 2))).flatten(-2)
        if masks is not None:
            masks = masks.flatten(0, 1).to(self.model.prompt_encoder.no_mask_embed.weight.dtype)
        # bf16 would round coordinates to 4 of 1024 pixels
        with torch.autocast(features.embedding.device.type, enabled=False):
            sparse, dense = self.model.prompt_encoder(points, labels, boxes, masks)
        return self._decode(features, sparse, dense.unflatten(0, (batch, -1)), multimask)

    def decode_classes(self, features: SAM2Features) -> SAM2Prediction:
        """Return one mask for each class, from the class prompts: N is the number of classes, M is 1.

        The object logits are those of the presence head, not of SAM 2's own head: that one is frozen and starts so
        sure that an object is there that nothing is learned through it.
        """
        assert self.class_prompts is not None, "needs prompt_free=True"
        assert self.presence is not None
        sparse = self.class_tokens().expand(features.embedding.shape[0], -1, -1, -1)
        _, dense = self.model.prompt_encoder(None, None, None, None)
        prediction = self._decode(features, sparse, dense[None], False)
        pooled = F.layer_norm(features.pooled, features.pooled.shape[-1:])
        return prediction._replace(object_logits=self.presence(pooled)[..., None].float())

    def class_tokens(self) -> Tensor:
        """Return the prompts of the classes, (C, T, D): the empty prompt and what was learned beside it.

        What is learned counts ten deviations of the empty prompt: an optimizer that moves every number by its rate
        would otherwise hardly move prompts, whose numbers are as large as those deviations.
        """
        assert self.class_prompts is not None
        empty = self.model.prompt_encoder.not_a_point_embed.weight  # (1, D)
        learned = self.class_prompts(torch.arange(self.class_prompts.num_embeddings, device=empty.device))
        return empty + PROMPT_SCALE * empty.std() * learned.unflatten(-1, (CLASS_TOKENS, -1))

    def forward(
        self,
        image: Tensor,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = True,
    ) -> SAM2Prediction:
        """Return masks for images (B, 3, H, W): `encode` and then `decode`, with their arguments."""
        return self.decode(self.encode(image), points, labels, boxes, masks, multimask)

    def _decode(self, features: SAM2Features, sparse: Tensor, dense: Tensor, multimask: bool) -> SAM2Prediction:
        """Return masks of prompts: sparse (B, N, T, D), dense (B, N, D, h, w) or with 1 for B or N."""
        with torch.autocast(sparse.device.type, enabled=False):
            positions = self.model.get_image_wide_positional_embeddings()  # (1, D, h, w)
        prediction = predict_masks(self.model.mask_decoder, features, positions, sparse, dense, multimask)
        return SAM2Prediction(*(part.float() for part in prediction))

    def for_prompt_encoder(self, coordinates: Tensor) -> Tensor:
        """Return coordinates (..., 2) in pixels as if the image were square, as the prompt encoder expects."""
        height, width = self.img_size
        if height == width:
            return coordinates
        x, y = coordinates.unbind(-1)
        return torch.stack((x, (y + 0.5) * (width / height) - 0.5), dim=-1)

    def _make_class_modules(self, weights: SAM2Weights | None) -> tuple[nn.Embedding, nn.Linear]:
        """Return class prompts and presence head as they were read, or else new ones.

        New prompts are empty prompts, which the pre-trained decoder knows, plus noise as large as they are: classes
        that start alike are pulled the same way and stay alike. A new head says "absent" to every class, so that step 0
        answers nothing, and any figure above that has been learned.
        """
        empty = self.model.prompt_encoder.not_a_point_embed.weight.detach()
        count = self.num_classes or 0
        prompts = nn.Embedding(count, CLASS_TOKENS * empty.shape[1])
        presence = nn.Linear(POOLED * empty.shape[1], count)
        read = weights.classes if weights else None
        if read is None:
            noise = torch.randn(prompts.weight.shape, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                prompts.weight.copy_(noise / PROMPT_SCALE)
                presence.weight.zero_()
                presence.bias.fill_(ABSENT)
            return prompts, presence
        if len(read.prompts) != count:
            raise UserError(
                f"{self.pretrained}: holds prompts of {len(read.prompts)} classes, but the data has {count}; "
                "give the weights that its training started from"
            )
        with torch.no_grad():
            for parameter, value in zip((prompts.weight, *presence.parameters()), read, strict=True):
                parameter.copy_(value)
        mark_loaded(prompts, ["weight"])
        mark_loaded(presence, ["weight", "bias"])
        return prompts, presence


def default_lora(prompt_free: bool = False) -> LoRAConfig:
    """Return a config with rank 8 on the image encoder's attention and the mask decoder's transformer, all else frozen.

    With the large size these are 1,473,152 parameters in 128 layers.

    Args:
        prompt_free: Train the class prompts too.
    """
    return LoRAConfig(
        rank=8,
        lora_alpha=16,
        lora_dropout=0.05,
        target_modules=list(LORA_TARGETS),
        freeze_base_model=True,
        trainable_modules=list(CLASS_MODULES) if prompt_free else [],
    )


def _make_model(weights: SAM2Weights | None, size: str) -> Sam2Model:
    if weights is None:
        model = Sam2Model(sam2_config(size) if is_size(size) else read_sam2_config(Path(size)))
        for module in model.modules():
            # as in the authors' code; with the small values of transformers, a small network ignores its prompts
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
                module.reset_parameters()
        with torch.no_grad():
            # transformers leaves it at zero, where it says nothing
            nn.init.trunc_normal_(model.no_memory_embedding, std=0.02)
            # both hold the same matrix in all trained weights
            model.get_buffer(POSITIONS_TWICE[0]).copy_(model.get_buffer(POSITIONS_TWICE[1]))
    else:
        with torch.device("meta"):
            model = Sam2Model(weights.config)
        model.load_state_dict(weights.state, assign=True)
        mark_loaded(model, weights.state)
    use_lean_blocks(model.vision_encoder.backbone)
    use_remade_sums(model.mask_decoder.transformer)
    return model
