"""What README, LORA_README and the config headers say is true: their commands parse, their snippets run."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from eomt.cli import CLI
from eomt.models import EoMT
from eomt.models.adapter_io import save_adapter
from eomt.models.lora import lora_layers
from eomt.models.lora_integration import LoRAConfig, apply_lora
from eomt.models.vit import ViT

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
# what replaces a placeholder of the documents so that a command can be parsed
COMMANDS = re.compile(r"^\s*(?:\| .* \| `)?#? ?(python main\.py [^`\n]*)", re.MULTILINE)


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def commands(path: Path) -> list[str]:
    return [match.strip() for match in COMMANDS.findall(path.read_text())]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_short_and_starts_with_its_command(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 40
    assert any(str(path.relative_to(ROOT)) in command for command in commands(path)), lines[0]


def parse(command: str, monkeypatch: pytest.MonkeyPatch) -> CLI:
    """Parses and checks a command as the program would, without building or running anything."""
    monkeypatch.setattr(CLI, "before_instantiate_classes", lambda self: None)
    monkeypatch.setattr(CLI, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(CLI, "after_instantiate_classes", lambda self: None)
    monkeypatch.setattr(CLI, "_run_subcommand", lambda self, subcommand: None)
    monkeypatch.chdir(ROOT)
    return CLI(shlex.split(command)[2:])


@pytest.mark.parametrize(
    "command", sorted({command for path in [ROOT / "README.md", *CONFIGS] for command in commands(path)})
)
def test_a_command_of_the_documents_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "--config" not in command or ".help" in command:
        # these take the configuration beside a checkpoint, or print help
        command = f"python main.py {command.split()[2]} --config configs/quickstart/eomt.yaml"
    parse(command, monkeypatch)


@pytest.mark.parametrize("option", sorted(set(re.findall(r"`(--[a-z][^`]*)`", (ROOT / "README.md").read_text()))))
def test_an_option_of_the_readme_exists(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if ".help" in option:
        with pytest.raises(SystemExit) as stop:
            parse(f"python main.py fit {option}", monkeypatch)
        assert stop.value.code == 0
    else:
        parse(f"python main.py fit --config configs/eomt_lora.yaml {option}", monkeypatch)


def test_the_options_of_the_readme_were_found() -> None:
    assert len(commands(ROOT / "README.md")) >= 4
    assert len(re.findall(r"`(--[a-z][^`]*)`", (ROOT / "README.md").read_text())) >= 6


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ViT("test_vit", img_size=(96, 96), patch_size=8, pretrained=False)
    monkeypatch.chdir(ROOT)
    network = EoMT(encoder, num_classes=7, num_q=16, num_blocks=3, pretrained="configs/quickstart/eomt_base")
    apply_lora(network, LoRAConfig(target_modules=["attention"], freeze_base_model=True))
    save_adapter(network, tmp_path / "adapter")
    (code,) = blocks("README.md", "python")
    assert "runs/<run>/best_lora_<...>" in code
    names = {"images": torch.zeros(1, 3, 96, 96, dtype=torch.uint8)}
    exec(code.replace("runs/<run>/best_lora_<...>", str(tmp_path / "adapter")), names)
    assert names["class_logits"].shape == (1, 16, 8)


def test_the_python_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = ViT("test_vit", img_size=(32, 32), patch_size=8, pretrained=False)
    names = {"network": EoMT(encoder, num_classes=3, num_q=4, num_blocks=2)}
    for code in blocks("LORA_README.md", "python"):
        exec(code, names)
    assert (tmp_path / "my_adapter" / "adapter_model.safetensors").is_file()
    assert not lora_layers(names["network"])


def test_the_yaml_of_the_guide_is_a_config() -> None:
    (text,) = blocks("LORA_README.md", "yaml")
    LoRAConfig(**yaml.safe_load(text)["lora_config"]["init_args"])


def test_the_guide_names_every_field() -> None:
    text = (ROOT / "LORA_README.md").read_text()
    assert not [name for name in LoRAConfig.__dataclass_fields__ if f"`{name}`" not in text]
