"""Any timm model as encoder of a classifier: convolutional networks, hierarchical and other transformers."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from eomt.errors import UserError, first_line
from eomt.models.encoder import TokenEncoder
from eomt.models.network import check_img_size
from eomt.models.parts.pixels import PixelNormalization
from eomt.models.weights.colors import Colors
from eomt.models.weights.timm_models import base_of, check_name, create_model, pretrained_config
from eomt.utils.loaded import mark_loaded
from eomt.utils.modes import is_trained
from eomt.utils.paths import PathOrName, expand_source


class TimmEncoder(TokenEncoder):
    """A timm model such as ConvNeXt, Swin, EfficientNet or BEiT, for classification; `ViT` is for plain ViTs.

    Its first token is what the model itself pools and normalizes for its own classifier; the others are the places of
    its last feature map. So `pooling: cls` sees what timm's classifier would see. Where that is wider than the map, as
    in MobileNetV3, there are no others.

    Args:
        backbone_name: Name of a timm model, such as convnext_tiny.fb_in22k.
        img_size: Height and width of images in pixels.
        pretrained: True takes the weights of `backbone_name` from the hub. A text is a folder or file in timm's layout,
            or a repository on the hub. False leaves the weights random.
        checkpointing: Recompute activations in the backward pass: less memory, about a third more time.

    Raises:
        UserError: If the name is unknown, the model does not take the size, or weights are not available or do not fit.
    """

    # adapters have the names of the timm model, so that PEFT opens them on it
    inner_models = ("model",)
    # see `train`
    keeps_statistics = ("model",)

    def __init__(
        self,
        backbone_name: str = "convnext_tiny.fb_in22k",
        img_size: tuple[int, int] = (224, 224),
        pretrained: bool | PathOrName = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        pretrained = expand_source(pretrained)
        check_img_size(img_size)
        check_name(backbone_name, "convnext*")
        self.backbone_name, self.pretrained = backbone_name, pretrained
        self.img_size = (int(img_size[0]), int(img_size[1]))
        # timm's models have no common class that says what they can
        self.model: Any = self._create(pretrained is True)
        if pretrained is True:
            mark_loaded(self.model, self.model.state_dict())
        elif pretrained:
            from eomt.models.weights.backbone.load import load_timm

            load_timm(self.model, pretrained)
        if checkpointing:
            self._checkpoint()
        config = pretrained_config(backbone_name)
        self.normalize = PixelNormalization(config.mean, config.std)
        self.patch_size, self._width, self._has_map = self._look()
        self._depths = _depths(self.model)

    @property
    def embed_dim(self) -> int:
        """Width D of the tokens."""
        return self._width

    @property
    def num_prefix_tokens(self) -> int:
        """One: what the model pools."""
        return 1

    @property
    def has_class_token(self) -> bool:
        """Always: what the model pools stands for one."""
        return True

    @property
    def has_places(self) -> bool:
        """Whether there are tokens behind the first."""
        return self._has_map

    @property
    def colors(self) -> tuple[Colors, Colors]:
        """Mean and deviation of the colors, for normalization."""
        return self.normalize.colors

    @property
    def base(self) -> str:
        """Origin of the weights in words: a repository, a path, or the name of the model."""
        return base_of(self.backbone_name, self.pretrained)

    def depth_of(self, parameter: str) -> int | None:
        """Return the layer of a parameter, as timm numbers them; None where it numbers none."""
        return self._depths.get(parameter.removeprefix("model."))

    def train(self, mode: bool = True) -> Self:
        """Set the mode, but for batch normalization that is frozen: it uses its stored statistics in training, too.

        Else they would follow the training images, and the base would be another.
        """
        super().train(mode)
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and not is_trained(module):
                module.eval()
        return self

    def tokens(self, image: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to tokens (B, 1 + h * w, D): what the model pools, and the places of its map.

        Raises:
            UserError: If the model does not take images of this size.
        """
        features = self._features(self.normalize(image).to(next(self.model.parameters()).dtype))
        pooled = self.model.forward_head(features, pre_logits=True)
        if not self._has_map:
            return pooled[:, None]
        return torch.cat((pooled[:, None], _places(features, self.model)), 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return what the model pools of images (B, 3, H, W), (B, D)."""
        return self.tokens(image)[:, 0]

    def _features(self, pixels: Tensor) -> Tensor:
        try:
            return self.model.forward_features(pixels)
        except (AssertionError, RuntimeError, ValueError) as error:
            height, width = pixels.shape[-2:]
            if (height, width) == self.img_size:
                raise
            raise UserError(f"image: {height} x {width} pixels, which {self.backbone_name} does not take") from error

    def _create(self, from_hub: bool) -> Any:
        try:
            # transformers have a grid of this size; convolutional networks take any
            return create_model(self.backbone_name, from_hub, num_classes=0, img_size=self.img_size)
        except TypeError:
            return create_model(self.backbone_name, from_hub, num_classes=0)
        except AssertionError as error:
            reason = str(error).splitlines()[0] if str(error) else "see timm"
            raise UserError(f"img_size: {list(self.img_size)}: {self.backbone_name} takes others ({reason})") from error

    def _checkpoint(self) -> None:
        try:
            self.model.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise UserError(f"checkpointing: true, but timm cannot for {self.backbone_name}; leave it out") from error

    @torch.no_grad()
    def _look(self) -> tuple[int, int, bool]:
        """Return the side of a place in pixels, the width of what is pooled, and whether places have it.

        Raises:
            UserError: If the model takes no images of this size.
        """
        was_training = self.model.training
        self.model.eval()
        try:
            features = self.model.forward_features(torch.zeros(1, 3, *self.img_size))
            pooled = self.model.forward_head(features, pre_logits=True)
            places = _places(features, self.model)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"img_size: {list(self.img_size)}, which {self.backbone_name} does not take ({first_line(error)})"
            ) from error
        finally:
            self.model.train(was_training)
        side = max(1, round((self.img_size[0] * self.img_size[1] / places.shape[1]) ** 0.5))
        return side, pooled.shape[1], pooled.shape[1] == places.shape[2]


def _places(features: Tensor, model: Any) -> Tensor:
    """Return a feature map, or tokens, as tokens (B, N, D) without those that stand before the places."""
    if features.ndim == 4:
        is_last = str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC")
        return features.flatten(1, 2) if is_last else features.flatten(2).transpose(1, 2)
    return features[:, int(getattr(model, "num_prefix_tokens", 0)) :]


def _depths(model: Any) -> dict[str, int]:
    """Return the layer of each parameter, as timm groups them for decay by layer; none where it does not."""
    from timm.models import group_parameters

    if not hasattr(model, "group_matcher"):
        return {}
    found = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    return {name: int(layer) for name, layer in found.items()}
