"""Keeps a program from loading torch's compiler, which takes as long to load as torch itself.

Put this folder on PYTHONPATH for programs that compile nothing. The first optimizer of a process
loads the compiler to exclude its step from compilation; here, nothing has to be excluded.
"""

import sys
from types import ModuleType

_compiler = ModuleType("torch._dynamo")
_compiler.disable = lambda function, *_, **__: function
_compiler.graph_break = lambda: None
sys.modules["torch._dynamo"] = _compiler
