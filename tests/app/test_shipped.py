"""Configurations that come with the package are found by name from any folder, and an existing path goes before."""

import os
from pathlib import Path

import pytest
from jsonargparse import Namespace

from eomt.app.arguments import in_order, option_value, option_values
from eomt.app.config import expand_paths, named_paths
from eomt.app.shipped import find_shipped, located, purpose, shipped_folder, shipped_names
from eomt.app.trust import with_saved_config
from eomt.cli import CLI, main
from eomt.errors import UserError
from tests.documents import CONFIGS, ROOT


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a checkout, where each test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*args: str) -> str | None:
    """The config that a command is given in the end."""
    return option_value(in_order(["fit", *args]), "--config", "-c")


def refusal(given: str) -> str:
    """How a command refuses a config."""
    with pytest.raises(UserError) as caught:
        with_saved_config(in_order(["fit", "--config", given]))
    return str(caught.value)


def test_every_config_of_the_checkout_has_a_name() -> None:
    assert shipped_names() == sorted(str(path.relative_to(ROOT / "configs").with_suffix("")) for path in CONFIGS)
    assert [find_shipped(name) for name in shipped_names()] == [ROOT / "configs" / f"{n}.yaml" for n in shipped_names()]


@pytest.mark.parametrize("form", ["{}", "{}.yaml", "configs/{}", "configs/{}.yaml"])
def test_a_name_stands_for_its_file_however_it_is_given(form: str) -> None:
    for name in ("eomt_lora", "quickstart/eomt"):
        given, file = form.format(name), str(ROOT / "configs" / f"{name}.yaml")
        for args in (["--config", given], [f"--config={given}"], ["-c", given], [f"-c{given}"]):
            assert found(*args) == file
    several = in_order(["fit", "--config", "eomt_lora", "--model.lr=1", "-c", "quickstart/sam2"])
    assert option_values(several, "--config", "-c") == [
        str(find_shipped("eomt_lora")),
        str(find_shipped("quickstart/sam2")),
    ]


def test_a_path_goes_before_a_name(elsewhere: Path) -> None:
    Path("eomt_lora.yaml").touch()
    # a copy that was changed is meant, with its ending or without
    assert found("--config", "eomt_lora.yaml") == "eomt_lora.yaml"
    assert found("--config", "eomt_lora") == "eomt_lora.yaml"
    Path("eomt_lora").touch()
    assert found("--config", "eomt_lora") == "eomt_lora"
    Path("sam2_lora").mkdir()
    assert refusal("sam2_lora") == (
        "sam2_lora: is a folder here; give sam2_lora.yaml for the shipped configuration of that name"
    )
    assert found("--config", "sam2_lora.yaml") == str(find_shipped("sam2_lora"))


def test_what_is_no_name_stays_as_it_is(elsewhere: Path) -> None:
    for given in ("model:\n  lr: 1\n", "{model: {}}", "null"):
        assert found(f"--config={given}") == given
    assert found("--config", str(elsewhere)) == str(elsewhere)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("eomt_lorra", ": eomt_lora, "),
        ("configs/sam2_loro.yaml", ": sam2_lora, quickstart/sam2"),
        # the last part is enough
        ("eomt", ": quickstart/eomt, "),
        ("zzz", ""),
        # no name leads out of the folder
        ("../configs/eomt_lora", ": eomt_lora"),
        ("quickstart/../eomt_lora", ": quickstart/eomt_base, "),
    ],
)
def test_a_name_that_is_none_is_told_with_those_near_it(name: str, near: str) -> None:
    start = f"{name}: cannot be read (No such file or directory); give a YAML file, or the name of a shipped one"
    message = refusal(name)
    assert message.startswith(start + near)
    assert message.endswith(" (`eomt configs` lists them)")


def test_every_config_says_what_it_is_for() -> None:
    for name in shipped_names():
        file = find_shipped(name)
        assert file
        said = purpose(file)
        assert 30 <= len(said) <= 125, name
        assert "python" not in said
        # the beginning of the comment, word by word
        assert said in " ".join(line.lstrip("# ") for line in file.read_text().splitlines())
    assert len({purpose(ROOT / "configs" / f"{name}.yaml") for name in shipped_names()}) == len(shipped_names())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs").with_suffix("")))
def test_paths_of_a_config_lead_to_the_package_or_to_the_users_folder(
    path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Namespace] = []

    def keep(self: CLI) -> None:
        made.append(self.config.fit)
        raise UserError("enough")

    monkeypatch.setattr(CLI, "before_instantiate_classes", keep)
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(path.relative_to(ROOT / "configs").with_suffix(""))])
    (settings,) = made
    inside = 0
    for address, place in named_paths(settings):
        if address.startswith("trainer"):
            continue
        if place.is_absolute():
            assert place.is_relative_to(shipped_folder())
            assert place.exists(), address
            inside += 1
        else:
            # the user's own, drawn or made by another config, or the name of what timm and the hub have
            assert place.parts[0] != "configs", address
    assert inside == path.read_text().count(": configs/quickstart/")


def test_a_base_of_the_package_is_found_where_there_is_none_of_the_users(elsewhere: Path) -> None:
    base = "configs/quickstart/eomt_base"
    assert located(base) == str(ROOT / base)
    assert located(f"{base}/model.safetensors") == str(ROOT / base / "model.safetensors")
    for other in ("configs/none", "configs/../configs/eomt_lora.yaml", "data/configs", "facebook/sam2", str(ROOT)):
        assert located(other) == other
    os.makedirs(base)
    assert located(base) == base


def test_only_paths_of_components_are_located() -> None:
    settings = Namespace(ckpt_path="configs/quickstart/eomt_base", run_name="configs/quickstart/eomt_base")
    expand_paths(settings)
    assert settings.ckpt_path == str(ROOT / "configs/quickstart/eomt_base")
    assert settings.run_name == "configs/quickstart/eomt_base"
