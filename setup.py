"""Build the native kernels if there is a C compiler; without one, plain torch is used."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

UNIX = [
    "-std=gnu11",
    "-O3",
    "-g0",  # Python's own flags ask for debug symbols, which triple the size
    "-fvisibility=hidden",
    # The parts of -ffast-math that change no other code: `omp simd` sums, no errno of sqrt.
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
]


class BuildLibrary(build_ext):
    """Build a plain shared library instead of a Python module; it works with every Python."""

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
    """Tag the wheel py3-none-<platform>, or py3-none-any if nothing was built."""

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
