"""Construction of models without the random numbers that their weights would only replace.

A library builds a model with random weights, which takes a core seconds to draw, and then loads others over them. Here
parameters are made without memory and without numbers; buffers, which are computed and often in no file, are as the
library makes them. Once the model is built its parameters get memory on their device, and the file fills it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

LOCK = threading.RLock()


@contextmanager
def leave_parameters_empty() -> Iterator[None]:
    """Build modules whose parameters are on the device `meta`: drawing numbers for those does nothing.

    What is built stays where it is, as nothing can be moved that has no numbers. Only in this thread; others wait to
    do the same. `fill_parameters` follows, and then a file of weights that holds every one of them.
    """
    register, move, mine = torch.nn.Module.register_parameter, torch.nn.Module.to, threading.get_ident()

    def register_empty(module: torch.nn.Module, name: str, param: torch.nn.Parameter | None) -> None:
        if param is not None and not param.is_meta and threading.get_ident() == mine:
            param = torch.nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
        register(module, name, param)

    def stay(module: torch.nn.Module, *args: Any, **options: Any) -> torch.nn.Module:
        return module if threading.get_ident() == mine else move(module, *args, **options)

    with LOCK:
        torch.nn.Module.register_parameter = register_empty  # type: ignore[method-assign,assignment]
        torch.nn.Module.to = stay  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            torch.nn.Module.register_parameter = register  # type: ignore[method-assign]
            torch.nn.Module.to = move  # type: ignore[method-assign]


def fill_parameters(model: torch.nn.Module, device: torch.device) -> None:
    """Give empty parameters memory on a device, and move all else there; one that several modules share stays one.

    Args:
        model: built within `leave_parameters_empty`.
        device: where its weights are to be loaded.
    """
    filled: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, param in module._parameters.items():
            if param is None or not param.is_meta:
                continue
            if id(param) not in filled:
                made = torch.empty_like(param, device=device)
                filled[id(param)] = torch.nn.Parameter(made, requires_grad=param.requires_grad)
            module._parameters[name] = filled[id(param)]
    model.to(device)
