"""From ``module:factory`` on the command line to a model."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import redirect_stdout
from typing import Any

from zeromean.errors import ZeromeanError


def make_model(text: str) -> Any:
    """Calls ``factory`` of ``module``, which is looked for in the current folder too.

    Returns:
        What it returns, a ``torch.nn.Module``.

    Raises:
        ZeromeanError: The text has another form, the module or the factory is not there, the call
            fails, or it returns something else.
    """
    from torch import nn

    module_name, colon, name = text.partition(":")
    if not (module_name and colon and name):
        raise ZeromeanError(
            f"--model {text}",
            "module:factory, a function without arguments that returns a torch.nn.Module",
            "write one, such as models:resnet in a file models.py",
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    # The module is the user's, and so is whatever it raises. What it prints is no part of a
    # command's own output, such as that of explain --json.
    try:
        with redirect_stdout(sys.stderr):
            model = getattr(importlib.import_module(module_name), name)()
    except Exception as error:
        raise ZeromeanError(
            f"--model {text}, which fails with {type(error).__name__}: {error}",
            "a function without arguments that returns a torch.nn.Module",
            "mend it, or start in the folder that holds the module",
        ) from error
    if not isinstance(model, nn.Module):
        raise ZeromeanError(
            f"--model {text}, which returns {type(model).__name__}",
            "a torch.nn.Module",
            "return the model",
        )
    return model
