"""A tiny model with code of its own, and packages in several versions as wheels, all written here."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import SiglipImageProcessor

from tests.tiny import tokenizer, write_json

SCALE = [2.0, 3.0, 4.0, 5.0]
CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel

class TinyConfig(PretrainedConfig):
    model_type = "tiny_stranger"
    max_position_embeddings = 18

class TinyModel(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.ones(4))
        self.post_init()

    def encode_text(self, texts):
        counts = [[len(text), text.count("a"), text.count("e"), 1.0] for text in texts]
        return (torch.tensor(counts) * self.scale).detach().numpy()

    def encode_image(self, pixels):
        return torch.cat([pixels.mean(dim=(2, 3)), torch.ones(len(pixels), 1)], dim=1) * self.scale
"""


def save_stranger(folder: Path, code: str = CODE) -> Path:
    """A folder as a repository of the hub has it, whose model is written in a file of its own."""
    auto_map = {"AutoConfig": "modeling_tiny.TinyConfig", "AutoModel": "modeling_tiny.TinyModel"}
    write_json({"model_type": "tiny_stranger", "auto_map": auto_map}, folder / "config.json")
    (folder / "modeling_tiny.py").write_text(code, encoding="utf-8")
    save_file({"scale": torch.tensor(SCALE)}, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer().save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_wheel(folder: Path, name: str, version: str, code: str) -> None:
    """A wheel with one module."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
