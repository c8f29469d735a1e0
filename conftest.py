"""Runs the Python examples of the README and the docs as tests."""

from __future__ import annotations

import doctest
import os
from importlib.util import find_spec

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

# Keras asks when it is imported; without a word it takes TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "torch")

pytest_collect_file = Sybil(
    parsers=[
        PythonCodeBlockParser(doctest_optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS),
        SkipParser(),
    ],
    patterns=["*.md"],
).pytest()

# What has to be imported to be searched for doctests, and is nothing without Triton.
collect_ignore = [] if find_spec("triton") else ["src/zeromean/kernels/triton_kernels.py"]

# They have no examples, and as modules to be searched they would all have one name.
collect_ignore_glob = ["*/conftest.py"]
