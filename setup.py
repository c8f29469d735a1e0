"""Builds the native kernels where there is a compiler; without one the reference serves."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

UNIX = [
    "-std=gnu11",
    "-O3",
    "-g0",  # Python's own flags ask for symbols, thrice the size
    "-fvisibility=hidden",
    # Of -ffast-math only what touches no one else: sums by `omp simd`, roots that set no errno.
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
]


class BuildLibrary(build_ext):
    """Builds a plain shared library, which serves every Python, instead of a Python module."""

    def build_extension(self, ext: Extension) -> None:
        msvc = self.compiler.compiler_type == "msvc"
        ext.extra_compile_args = ["/O2", "/fp:precise", "/std:c11"] if msvc else UNIX
        ext.libraries = [] if msvc else ["m"]
        super().build_extension(ext)

    def get_ext_filename(self, fullname: str) -> str:
        suffix = ".dll" if sys.platform == "win32" else ".so"
        return str(Path(*fullname.split("."))) + suffix

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []  # no PyInit_


class PlatformWheel(bdist_wheel):
    """Tags the wheel py3-none-<platform>; py3-none-any where nothing was built."""

    def get_tag(self) -> tuple[str, str, str]:
        built = list(Path(self.bdist_dir or ".").rglob("centered.so"))
        built += Path(self.bdist_dir or ".").rglob("centered.dll")
        return ("py3", "none", super().get_tag()[2] if built else "any")


FOLDER = "src/zeromean/kernels"

setup(
    ext_modules=[
        Extension(
            "zeromean.kernels.centered",
            sources=[f"{FOLDER}/centered.c"],
            depends=[str(path) for path in Path(FOLDER).glob("*.h")],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
)
