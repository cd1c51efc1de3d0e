"""Program of a child process: runs a model with code of its own, in the model's environment rather than in ours.

It is started as a file, and knows the standard library, numpy, and what the environment has of torch and transformers:
nothing else of this project. It reads requests from one pipe and writes answers to another, each a frame (see
`pack_frame`): a message in JSON, and an array of numbers where there is one. Nothing is pickled in either direction.

| request | array | answer | array |
|---|---|---|---|
| `hello`: protocol, how to load | | protocol, `versions`, `processor`, `parameters`, `max_tokens` | |
| `begin`: `mean`, `std`, `size` of pixels | | `dims` of `image` and `text` | |
| `count`: `texts` | | `counts` of their tokens | |
| `texts`: `texts` | | | vectors |
| `pictures` | pixels, uint8 | | vectors |
| `picture`: one, by the model's own image processor | pixels, uint8 | | its vector |
| `bye` | | | |

A failure is an answer with `error` (`memory`, `device_memory`, `library` or `model`) and `reason`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import sys
import threading
import time
import traceback
from contextlib import suppress
from importlib import import_module
from typing import Any

import numpy as np

PROTOCOL = 1
HEAD = struct.Struct("<IQ")  # bytes of the message, bytes of the array
LOOKS_EVERY_S = 0.5
PR_SET_PDEATHSIG = 1  # linux/prctl.h
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")


def pack_frame(message: dict[str, Any], array: Any = None) -> list[bytes | memoryview]:
    """Pack a message, and an array that follows it, into pieces to be written one after the other."""
    if array is not None:
        array = np.ascontiguousarray(array)
        message = dict(message, dtype=str(array.dtype), shape=list(array.shape))
    text = json.dumps(message).encode()
    body = b"" if array is None or not array.size else array.data.cast("B")
    return [HEAD.pack(len(text), len(body)) + text, body]


def main() -> None:
    """Serve requests until `bye`, or until the parent is gone."""
    requests, answers, parent, by_main_thread = map(int, sys.argv[1:5])
    for descriptor in (requests, answers):
        os.set_inheritable(descriptor, False)  # a process that the model starts must not hold the pipes open
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with(parent, by_main_thread == 1)
    server = Server()
    while True:
        frame = _read_frame(requests)
        if frame is None or frame[0]["ask"] == "bye":
            return
        for piece in pack_frame(*_answer(server, *frame)):
            _write(answers, piece)


def _end_with(parent: int, by_main_thread: bool) -> None:
    """End when the parent does; the kernel sees to it only where the thread that started us lives as long as it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOKS_EVERY_S)
        os._exit(1)

    if by_main_thread and sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a system without it has the thread
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=watch, name="parent", daemon=True).start()


def _answer(server: Server, message: dict[str, Any], array: Any) -> tuple[dict[str, Any], Any]:
    try:
        found: tuple[dict[str, Any], Any] = getattr(server, message["ask"])(message, array)
        return found
    except MemoryError as error:
        return _failure("memory", error), None
    except (ImportError, AttributeError) as error:
        return _failure("library", error), None
    except Exception as error:
        text = str(error)
        if type(error).__name__ == "OutOfMemoryError":
            return _failure("device_memory", error), None
        if "DefaultCPUAllocator" in text or "not enough memory" in text:
            return _failure("memory", error), None
        return _failure("model", error), None


def _failure(kind: str, error: BaseException) -> dict[str, Any]:
    traceback.print_exception(type(error), error, error.__traceback__)  # the parent keeps the last lines
    return {"error": kind, "reason": f"{type(error).__name__}: {error}"}


class Server:
    """A model and its tokenizer, once `hello` has loaded them."""

    def hello(self, message: dict[str, Any], _: Any) -> tuple[dict[str, Any], Any]:
        """Load the model."""
        if message["protocol"] != PROTOCOL:
            raise RuntimeError(f"this is protocol {PROTOCOL}, asked for {message['protocol']}")
        import torch
        import transformers

        remote = {"trust_remote_code": message["trust_remote_code"]}
        if message["code_revision"]:
            remote["code_revision"] = message["code_revision"]
        path, pooling = message["path"], message["pooling"]
        if message["random_weights"]:
            config = transformers.AutoConfig.from_pretrained(path, **remote)
            model = transformers.AutoModel.from_config(config, **remote)
        else:
            model, report = transformers.AutoModel.from_pretrained(path, output_loading_info=True, **remote)
            _refuse_gaps(model, report["missing_keys"], "pooler." if pooling else None)
        torch.set_num_threads(message["threads"])
        self.torch, self.prompt, self.pooling = torch, message["prompt"], pooling
        self.device, self.dtype = torch.device(message["device"]), getattr(torch, message["dtype"])
        self.model = model.eval().to(self.device, self.dtype)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(path, **remote)
        if len(self.tokenizer) <= len(set(self.tokenizer.all_special_ids)):
            raise RuntimeError("it lacks the tokenizer's files (tokenizer.json, or a vocabulary)")
        self.image_call: str = message["image_call"] or self._find("get_image_features", "encode_image")
        self.text_call: str = message["text_call"] or self._find("get_text_features", "encode_text")
        self.processor: Any = None
        settings = None
        if pooling is None:
            if not (self.image_call and self.text_call):
                raise RuntimeError(
                    "it has no pair of towers: name its methods on the card (`calls`), or `pooling` for a text tower"
                )
            self.processor = transformers.AutoImageProcessor.from_pretrained(path, **remote)
            settings = json.loads(self.processor.to_json_string())
        versions = {name: str(getattr(import_module(name), "__version__", "")) for name in LIBRARIES}
        parameters = sum({id(p): p.numel() for p in model.parameters()}.values())
        self.siglip = str(model.config.model_type).startswith("siglip")  # full padding, and no mask over it
        config = getattr(model.config, "text_config", model.config)
        positions = int(_get(config, "max_position_embeddings", 512))
        if _get(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert"):
            positions -= 2  # its positions start after the padding's
        self.max_tokens = min(positions, int(self.tokenizer.model_max_length))
        found = {"protocol": PROTOCOL, "versions": versions, "processor": settings}
        return dict(found, parameters=int(parameters), max_tokens=self.max_tokens), None

    def begin(self, message: dict[str, Any], _: Any) -> tuple[dict[str, Any], Any]:
        """Take how pixels are normalised, and encode a trial input of each kind."""
        dims = {"image": None, "text": int(self.texts({"texts": ["a"]}, None)[1].shape[1])}
        if self.pooling is None:
            scale = [self.torch.tensor(message[name], device=self.device)[:, None, None] for name in ("mean", "std")]
            self.mean, self.std = (numbers * 255.0 for numbers in scale)
            trial = np.zeros((1, 3, *message["size"]), dtype=np.uint8)
            dims["image"] = int(self.pictures({}, trial)[1].shape[1])
        return {"dims": dims}, None

    def count(self, message: dict[str, Any], _: Any) -> tuple[dict[str, Any], Any]:
        """Count the tokens of each text before anything is cut off."""
        texts = [self.prompt + text for text in message["texts"]]
        return {"counts": [len(row) for row in self.tokenizer(texts, truncation=False, verbose=False).input_ids]}, None

    def texts(self, message: dict[str, Any], _: Any) -> tuple[dict[str, Any], Any]:
        """Encode a batch of texts."""
        texts = [self.prompt + text for text in message["texts"]]
        with self.torch.inference_mode():
            if self.pooling is not None:
                return {}, self._pool(self._tokenize(texts))
            call = getattr(self.model, self.text_call)
            if self.text_call == "get_text_features":
                return {}, self._vectors(call(**self._tokenize(texts)))
            return {}, self._vectors(call(texts))

    def pictures(self, _: dict[str, Any], pixels: Any) -> tuple[dict[str, Any], Any]:
        """Encode a batch of pixels."""
        with self.torch.inference_mode():
            batch = self.torch.from_numpy(pixels).to(self.device).to(self.torch.float32)
            return {}, self._encode_pixels(((batch - self.mean) / self.std).to(self.dtype))

    def picture(self, _: dict[str, Any], pixels: Any) -> tuple[dict[str, Any], Any]:
        """Encode one picture by the model's own image processor."""
        from PIL import Image

        with self.torch.inference_mode():
            found = self.processor(images=Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
            return {}, self._encode_pixels(self.torch.as_tensor(found).to(self.device, self.dtype))

    def _find(self, *names: str) -> str:
        return next((name for name in names if hasattr(self.model, name)), "")

    def _encode_pixels(self, pixels: Any) -> Any:
        call = getattr(self.model, self.image_call)
        return self._vectors(call(pixel_values=pixels) if self.image_call == "get_image_features" else call(pixels))

    def _tokenize(self, texts: list[str]) -> dict[str, Any]:
        found = self.tokenizer(
            texts,
            truncation=True,
            max_length=self.max_tokens,
            padding="max_length" if self.siglip else "longest",
            return_attention_mask=True,
            return_tensors="pt",
        )
        return {name: found[name].to(self.device) for name in found if name != "attention_mask" or not self.siglip}

    def _pool(self, tokens: dict[str, Any]) -> Any:
        states = self.model(**tokens).last_hidden_state.float()  # (texts, tokens, dim)
        if self.pooling == "cls":
            return self._vectors(states[:, 0])
        kept = tokens["attention_mask"][:, :, None].float()
        return self._vectors((states * kept).sum(dim=1) / kept.sum(dim=1))

    def _vectors(self, output: Any) -> Any:
        """float32 rows on the host, of what a model may return: a tensor, an array, an output object."""
        found = getattr(output, "pooler_output", None)
        return self.torch.as_tensor(output if found is None else found).detach().float().cpu().numpy()


def _get(config: Any, name: str, other: Any) -> Any:
    found = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
    return other if found is None else found


def _refuse_gaps(model: Any, missing: Any, unused: str | None) -> None:
    """Refuse weights that lack a part of the model, which the library fills with numbers of its own."""
    own = {name for name, value in model.named_parameters() if value.numel() > 1}
    gaps = [name for name in missing if name in own and (unused is None or unused not in name)]
    if gaps:
        raise RuntimeError(f"its files lack {len(gaps)} of the model's {len(own)} parameters, the first is {gaps[0]}")


def _read_frame(descriptor: int) -> tuple[dict[str, Any], Any] | None:
    head = _read(descriptor, HEAD.size)
    if head is None:
        return None
    text_size, body_size = HEAD.unpack(head)
    text, body = _read(descriptor, text_size), _read(descriptor, body_size)
    if text is None or body is None:
        return None
    message = json.loads(bytes(text))
    if "shape" not in message:
        return message, None
    return message, np.frombuffer(body, dtype=message["dtype"]).reshape(message["shape"])


def _read(descriptor: int, size: int) -> bytearray | None:
    """Exactly so many bytes; None where the parent has closed the pipe."""
    found, view = bytearray(size), 0
    while view < size:
        count = os.readv(descriptor, [memoryview(found)[view:]])
        if not count:
            return None
        view += count
    return found


def _write(descriptor: int, piece: bytes | memoryview) -> None:
    left = memoryview(piece)
    while left:
        left = left[os.write(descriptor, left) :]


if __name__ == "__main__":
    main()
