"""Greedy and beam search write what `generate` of transformers writes, over many networks, widths and lengths."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from eomt.export.decoding import BeamSearch, decode
from eomt.models.parts.text_states import encoder_arguments
from tests.tiny_vqa import enlarge_weights, make_questions, make_vqa

END = 2


@pytest.mark.parametrize("num_beams", [1, 2, 3, 5])
def test_tokens_are_those_of_transformers(num_beams: int) -> None:
    network = make_vqa().eval()
    asked = make_questions(batch=24)
    lengths = set()
    for seed, bias in ((1, 2.0), (1, 3.0), (2, 0.0), (2, 1.0)):
        enlarge_weights(network, seed)
        network.text_model.final_logits_bias[0, END] = bias
        with torch.no_grad():
            encoded = encoder_arguments(*network.fuse(**asked, image_index=None, vision_tokens=None))
        states, mask = encoded["encoder_outputs"].last_hidden_state, encoded["attention_mask"]

        @torch.no_grad()
        def decoder(rows: Sequence[int], before: Tensor, states: Tensor = states, mask: Tensor = mask) -> Tensor:
            index = torch.tensor(rows)
            found = network.text_model(
                encoder_outputs=(states[index],), attention_mask=mask[index], decoder_input_ids=before, use_cache=False
            )
            return found.logits[:, -1]

        for most in (1, 6):
            theirs = network.generate(**asked, num_beams=num_beams, max_new_tokens=most)
            expected = [row[: row.index(END) + 1] if END in row else row for row in theirs]
            found = decode(decoder, 24, network.text_model.config.decoder_start_token_id, [END], num_beams, most)
            assert found == expected
            lengths |= {len(row) for row in found}
    assert len(lengths) > 2


def test_a_search_ends_when_no_running_answer_can_be_better() -> None:
    search = BeamSearch([0], num_beams=1, max_new_tokens=9)
    search.step(torch.tensor([[-2.0, -0.2, -3.0]]))
    assert (search.is_over, search.tokens) == (False, [[1]])
    search.step(torch.tensor([[-0.1, -2.0, -9.0]]))
    # a mean of -0.15, and the other one stands at (-0.2 - 2.0) / 2
    assert search.is_over
    assert search.best == [1, 0]
