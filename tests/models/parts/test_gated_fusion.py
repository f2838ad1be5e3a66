"""Gated cross-attention: the equation, one image a question, no state that depends on another, a gate that moves."""

import torch
from torch import Tensor

from eomt.models.parts.gated_fusion import GatedCrossAttention, GatedFusion
from tests.gradients import KEY_BIAS

WIDTH, HEADS = 8, 2


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Five questions of 3 tokens about two images of 6 tokens."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(5, 3, WIDTH, generator=generator, dtype=torch.double)
    vision = torch.randn(2, 6, WIDTH, generator=generator, dtype=torch.double)
    return states, vision, torch.tensor([0, 1, 1, 0, 1])


def make(num_layers: int = 2) -> GatedFusion:
    torch.manual_seed(0)
    return GatedFusion(WIDTH, HEADS, num_layers).double().eval()


def test_a_layer_is_its_equation() -> None:
    layer = GatedCrossAttention(WIDTH, HEADS).double().eval()
    states, vision, index = inputs()
    found = layer(states, vision, index)
    size = WIDTH // HEADS
    for question in range(5):
        tokens = vision[index[question]]
        for place in range(3):
            x = layer.norm_question(states[question, place])
            q, k, v = layer.query(x), layer.key(tokens), layer.value(tokens)
            parts = []
            for head in range(HEADS):
                cut = slice(head * size, (head + 1) * size)
                weights = torch.softmax(k[:, cut] @ q[cut] / size**0.5, 0)
                parts.append(weights @ v[:, cut])
            a = layer.output(torch.cat(parts))
            gate = 1 / (1 + torch.exp(-(layer.gate.weight @ torch.cat((x, a)) + layer.gate.bias)))
            y = states[question, place] + gate * a
            torch.testing.assert_close(found[question, place], y + layer.feed_forward(layer.norm_states(y)))


def test_each_question_sees_its_own_image() -> None:
    fusion, (states, vision, index) = make(), inputs()
    together = fusion(states, vision, index)
    for question in range(5):
        image = vision[index[question]][None]
        alone = fusion(states[question][None], image, torch.tensor([0]))
        torch.testing.assert_close(together[question][None], alone)
        other = fusion(states[question][None], vision[1 - index[question]][None], torch.tensor([0]))
        assert not torch.allclose(alone, other, atol=1e-3)


def test_no_state_depends_on_another_one() -> None:
    fusion, (states, vision, index) = make(), inputs()
    changed = states.clone()
    changed[:, 2] = 100
    torch.testing.assert_close(fusion(changed, vision, index)[:, :2], fusion(states, vision, index)[:, :2])


def test_the_order_of_vision_tokens_does_not_matter() -> None:
    fusion, (states, vision, index) = make(), inputs()
    torch.testing.assert_close(fusion(states, vision.flip(1), index), fusion(states, vision, index))


def test_the_gate_depends_on_what_is_asked_and_seen_and_is_open_at_the_start() -> None:
    fusion, (states, vision, index) = make(1), inputs()
    gates: list[Tensor] = []
    fusion.layers[0].gate.register_forward_hook(lambda module, given, answer: gates.append(answer.sigmoid()))
    fusion(states, vision, index)
    fusion(states, vision.flip(0), index)
    first, second = gates
    assert first.min() > 0.05
    assert first.max() < 0.95
    assert first.std(dim=(0, 1)).min() > 1e-3
    assert not torch.allclose(first, second, atol=1e-3)


def test_gradients_reach_the_image_the_question_and_every_parameter_from_the_start() -> None:
    fusion, (states, vision, index) = make(), inputs()
    states.requires_grad_()
    vision.requires_grad_()
    fusion(states, vision, index).square().sum().backward()
    assert states.grad is not None
    assert vision.grad is not None
    assert vision.grad.abs().amax(-1).min() > 1e-6
    for name, parameter in fusion.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-5 or KEY_BIAS.search(name), name
