"""Repositories of EoMTs in the hub's cache, opened without the network."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import EomtImageProcessor

from eomt.errors import UserError
from eomt.models.weights.eomt.load import classes_in
from tests.models.weights.eomt_pairs import NUM_CLASSES, make_network, make_transformers, official, save
from tests.models.weights.test_files import write_shards


@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
def test_a_cached_repository_opens_as_its_folder_does(snapshot: Path, repository: str, kind: str) -> None:
    save(make_transformers(kind, layer_norm_eps=0.03), snapshot)
    EomtImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(snapshot)
    found, expected = make_network(kind, pretrained=repository), make_network(kind, pretrained=str(snapshot))
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    assert found.encoder.backbone.norm.eps == 0.03
    assert found.encoder.colors == expected.encoder.colors != make_network(kind).encoder.colors
    assert found.base == repository
    assert classes_in(repository) == NUM_CLASSES


def test_a_cached_repository_of_several_files_opens(snapshot: Path, repository: str, tmp_path: Path) -> None:
    model = make_transformers()
    save(model, tmp_path / "whole")
    write_shards(load_file(tmp_path / "whole" / "model.safetensors"), snapshot)
    shutil.copy(tmp_path / "whole" / "config.json", snapshot)
    assert torch.equal(make_network(pretrained=repository).q.weight, model.query.weight)
    assert classes_in(repository) == NUM_CLASSES
    next(snapshot.glob("model-*")).unlink()
    # the rest is fetched when the network is opened
    assert classes_in(repository) is None
    with pytest.raises(UserError, match="cannot be had from the hub"):
        make_network(pretrained=repository)


def test_official_weights_of_a_repository_that_is_known_to_have_no_configuration_open(
    snapshot: Path, repository: str
) -> None:
    source = make_network()
    torch.save(official(source), snapshot / "pytorch_model.bin")
    known = snapshot.parents[1] / ".no_exist" / snapshot.name
    known.mkdir(parents=True)
    (known / "config.json").touch()
    assert torch.equal(make_network(pretrained=repository).q.weight, source.q.weight)


def test_weights_without_their_configuration_in_the_cache_are_refused(snapshot: Path, repository: str) -> None:
    save(make_transformers(layer_norm_eps=0.03), snapshot)
    (snapshot / "config.json").unlink()
    with pytest.raises(UserError, match=r"cache holds its weights but no config.json.*open it once with the network"):
        make_network(pretrained=repository)


def test_what_is_not_cached_cannot_be_had_without_the_network(snapshot: Path, repository: str) -> None:
    for source in (repository, "nobody/nothing"):
        with pytest.raises(UserError, match=r"cannot be had from the hub.*--model.network.pretrained PATH") as caught:
            make_network(pretrained=source)
        assert "holds neither" not in str(caught.value)
        assert "\n" not in str(caught.value)
        assert classes_in(source) is None


@pytest.mark.parametrize("name", ["some body/eomt", "a/b/c", "eomt-small", "a--b/c..d", "nowhere/model.bin"])
def test_what_names_no_repository_is_refused_without_asking(snapshot: Path, name: str) -> None:
    with pytest.raises(UserError, match="is no file or folder"):
        make_network(pretrained=name)
    assert classes_in(name) is None
