"""EoMT: queries, masks, annealing."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eomt.errors import UserError
from eomt.models import EoMT
from eomt.models.eomt import Prediction, ScaleBlock, anneal, class_and_void_scores, class_scores
from eomt.utils.labels import most_likely_classes
from tests.tiny import make_eomt, make_image


def test_training_supervises_every_layer_and_evaluation_the_last() -> None:
    network, image = make_eomt(), make_image()
    predictions = network.train()(image)
    assert len(predictions) == network.num_blocks + 1
    # 4 x 6 patches, doubled once
    assert predictions[0].mask_logits.shape == (2, 6, 8, 12)
    assert predictions[0].class_logits.shape == (2, 6, 6)
    network.attn_mask_probs.zero_()
    assert len(network.eval()(image)) == 1


@pytest.mark.parametrize("training", [True, False])
def test_bf16_throughout(training: bool) -> None:
    predictions = make_eomt().bfloat16().train(training)(make_image())
    assert predictions[-1].mask_logits.dtype == torch.bfloat16
    assert predictions[-1].mask_logits.isfinite().all()


def test_scale_block_is_a_transposed_convolution() -> None:
    block, x = ScaleBlock(8).double(), torch.randn(2, 8, 3, 4, dtype=torch.double)
    nn.init.normal_(block.bias)
    transposed = block.conv1.weight.view(8, 2, 2, 8).permute(3, 0, 1, 2)
    up = F.conv_transpose2d(x, transposed, block.bias, stride=2)
    expected = block.norm(block.conv2(F.gelu(up)))
    torch.testing.assert_close(block(x), expected)


def test_masked_queries_see_their_own_mask_only() -> None:
    network = make_eomt()
    logits = torch.full((1, 6, 8, 12), -1.0)
    logits[0, 0, :, :6] = 1  # query 0 sees the left half
    allowed = network._attention_mask(logits, (4, 6), probability=1.0)
    skip = 6 + 1
    assert allowed.shape == (1, 1, skip + 24, skip + 24)
    left = torch.zeros(4, 6, dtype=torch.bool)
    left[:, :3] = True
    assert torch.equal(allowed[0, 0, 0, skip:], left.flatten())
    assert not allowed[0, 0, 1:6, skip:].any()
    assert allowed[0, 0, :, :skip].all(), "queries and prefix tokens are always seen"
    assert allowed[0, 0, 6:].all(), "patches see everything"


def test_each_query_is_masked_with_the_probability_in_training_only() -> None:
    network = make_eomt()
    # 12,000 draws: the share is known to 0.004
    logits = torch.full((2000, 6, 8, 12), -1.0)
    blocked = ~network.train()._attention_mask(logits, (4, 6), 0.25)[:, 0, :6, -1]
    assert blocked.float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert not network.eval()._attention_mask(logits, (4, 6), 0.25)[:, 0, :6, 7:].any()


def test_masking_changes_the_answer_and_evaluation_does_not_depend_on_chance() -> None:
    network, image = make_eomt().eval(), make_image()
    answers = []
    for probability in (1.0, 0.5, 0.49, 0.0):
        network.attn_mask_probs.fill_(probability)
        answers.append(network(image)[-1].mask_logits)
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[2], answers[3])
    assert not torch.equal(answers[0], answers[3])


def test_masking_can_be_switched_off() -> None:
    network = make_eomt(masked_attn_enabled=False).eval()
    network.attn_mask_probs.fill_(1)
    assert len(network(make_image())) == 1


def test_anneal_goes_from_one_to_zero_between_its_fractions() -> None:
    fractions = [(0.1, 0.3), (0.5, 1.0)]
    assert anneal(fractions, 0.0) == [1.0, 1.0]
    assert anneal(fractions, 0.2)[0] == pytest.approx(0.5**0.9)
    assert anneal(fractions, 0.3) == [0.0, 1.0]
    assert anneal(fractions, 1.0) == [0.0, 0.0]


def test_class_scores_sum_the_queries_without_no_object() -> None:
    torch.manual_seed(0)
    prediction = Prediction(torch.randn(1, 3, 2, 2), torch.randn(1, 3, 5))
    expected = torch.zeros(1, 4, 2, 2)
    for query in range(3):
        for name in range(4):
            share = prediction.class_logits[0, query].softmax(0)[name]
            expected[0, name] += share * prediction.mask_logits[0, query].sigmoid()
    torch.testing.assert_close(class_scores(prediction), expected)


def test_mask_logits_are_interpolated_and_not_scores() -> None:
    """15 A: as in both references; a score interpolated after the sigmoid is another one at each edge."""
    torch.manual_seed(0)
    # more queries than are interpolated at once
    prediction = Prediction(4 * torch.randn(2, 75, 5, 7), torch.randn(2, 75, 5))
    masks = F.interpolate(prediction.mask_logits, (20, 30), mode="bilinear").sigmoid()
    expected = torch.einsum("bqc,bqhw->bchw", prediction.class_logits.softmax(-1), masks)
    torch.testing.assert_close(class_and_void_scores(prediction, (20, 30)), expected)
    torch.testing.assert_close(class_scores(prediction, (20, 30)), expected[:, :-1])


def test_the_most_likely_class_is_the_first_of_the_highest() -> None:
    scores = torch.randint(0, 4, (2, 6, 5, 7), generator=torch.Generator().manual_seed(0)).float()
    first = torch.tensor([[column.tolist().index(column.max()) for column in image.flatten(1).t()] for image in scores])

    assert torch.equal(most_likely_classes(scores), first.view(2, 5, 7))
    assert torch.equal(most_likely_classes(scores[0]), first[0].view(5, 7))


def test_depth_of_orders_the_backbone_and_leaves_the_heads() -> None:
    network = make_eomt()
    depths = {name: network.depth_of(name) for name, _ in network.named_parameters()}
    assert depths["encoder.backbone.patch_embed.proj.weight"] == 0
    assert depths["encoder.backbone.pos_embed"] == 0
    assert depths["encoder.backbone.blocks.5.mlp.fc1.weight"] == 6
    assert depths["encoder.backbone.norm.weight"] == 6
    assert depths["q.weight"] is None
    assert depths["mask_head.0.weight"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": None}, "num_classes: None"),
        ({"num_q": 0}, "num_q: 0"),
        ({"num_blocks": 7}, "num_blocks: 7; must be 1 to 6"),
        ({"pretrained": True}, "pretrained: true"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments: dict, message: str) -> None:
    encoder = make_eomt().encoder
    with pytest.raises(UserError, match=message):
        EoMT(encoder, **{"num_classes": 5} | arguments)
