"""Run the Python examples of the README and the docs as tests."""

from __future__ import annotations

import doctest
import os
from importlib.util import find_spec

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

# Keras reads its backend at import; the default is TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "torch")

pytest_collect_file = Sybil(
    parsers=[
        PythonCodeBlockParser(doctest_optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS),
        SkipParser(),
    ],
    patterns=["*.md"],
).pytest()

# The search for doctests imports every module; this one needs Triton.
collect_ignore = ["src/zeromean/programs/boot"]
collect_ignore += [] if find_spec("triton") else ["src/zeromean/kernels/triton_kernels.py"]

# Files named conftest.py or sitecustomize.py share their module name, replicas.py loads TensorFlow,
# and programs need packages that are not installed.
collect_ignore_glob = [
    "*/conftest.py",
    "*/on_keras/replicas.py",
    "*/recipes/programs/*",
    "*/vision/cases_*",
    "*/programs/scripts/*",
    "*/support/*",
]
