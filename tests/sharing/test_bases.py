"""Lines that make an adapter's base in the library that it comes from."""

from typing import Any

from eomt.sharing.bases import base_in_its_library


def lines(**encoder: Any) -> list[str]:
    arguments = {"backbone_name": "vit_small_patch14_dinov2", "img_size": [28, 28], "pretrained": True} | encoder
    network = {"init_args": {"encoder": {"init_args": arguments}}}
    found = base_in_its_library("SemanticSegmentation", {"model": {"init_args": {"network": network}}}, None)
    assert found is not None
    return found


def test_timm_makes_the_encoder_with_its_patches_and_channels() -> None:
    assert not any("in_chans" in line or "patch_size" in line for line in lines(in_chans=None, patch_size=None))
    text = "\n".join(lines(in_chans=5, patch_size=7))
    assert "dynamic_img_size=True, patch_size=7, in_chans=5," in text
