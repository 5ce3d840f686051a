"""Compiles the modules that every token goes through, where a C compiler and Python's headers are.

hatchling runs it for a wheel, which is then one of this Python and platform. `make setup` runs it
as a script: the compiled modules come to lie beside their sources, and are imported before them.
The sources mean the same uncompiled, so that whatever can't compile them goes without.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from Cython.Build import cythonize
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension

MODULES = (
    "tokenwire_frontend.core.fast_path",
    "tokenwire_frontend.edge.grpc.wire",
    "tokenwire_frontend.edge.grpc.outbox",
)
"""Those that gain: what a request goes through only once is slower compiled without C types than
by Python's own specialising interpreter. Each has its C types in a .pxd beside it."""

SWITCH = "TOKENWIRE_COMPILE"
"""Environment variable; 0: nothing is compiled."""


class CompiledModules(BuildHookInterface[Any]):
    """Puts the compiled modules into a wheel, beside their sources."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds them to what is packed, if they can be compiled."""
        if version != "standard" or os.environ.get(SWITCH) == "0":
            return
        self._folder = tempfile.TemporaryDirectory()
        compiled = compile_modules(Path(self.root), Path(self._folder.name))
        if compiled:
            build_data["force_include"].update(compiled)
            build_data.update(pure_python=False, infer_tag=True)

    def finalize(self, *_: object) -> None:
        """Removes what was compiled, now that it is packed."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def compile_modules(root: Path, folder: Path) -> Mapping[str, str]:
    """Compiles all modules, or none, and says why on standard error.

    Args:
        root: where the package's folder is.
        folder: for the compiled modules, and what is made on the way.

    Returns:
        By the compiled module's file: where it lies in the package.
    """
    cut = ["-g0", "-O2", "-fno-strict-aliasing"]
    sources = {name: f"{name.replace('.', '/')}.py" for name in MODULES}
    before = Path.cwd()
    os.chdir(root)  # paths in the C sources, and so in the wheel, are relative then
    try:
        extensions = cythonize(
            [Extension(name, [source], extra_compile_args=cut) for name, source in sources.items()],
            build_dir=str(folder / "c"),
            # Annotations are for type checkers; C types are in the .pxd files alone. A None in the
            # place of an object is an exception, as in Python, and does not end the process.
            compiler_directives={
                "language_level": 3,
                "annotation_typing": False,
                "nonecheck": True,
            },
            quiet=True,
        )
        command = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
        command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "o")
        command.ensure_finalized()
        command.run()
        outputs: list[str] = command.get_outputs()
    except Exception as error:  # noqa: BLE001 - whatever it is, it works without
        print(f"The hot path is not compiled, so a token costs more: {error}", file=sys.stderr)
        return {}
    finally:
        os.chdir(before)
    return {each: str(Path(each).relative_to(folder / "lib")) for each in outputs}


def main() -> None:
    """Compiles the modules into the checkout; none that was there before stays."""
    root = Path(__file__).resolve().parent
    for each in root.glob("tokenwire_frontend/**/*.so"):
        each.unlink()
    if os.environ.get(SWITCH) == "0":
        return
    with tempfile.TemporaryDirectory() as folder:
        for compiled, place in compile_modules(root, Path(folder)).items():
            shutil.move(compiled, root / place)


if __name__ == "__main__":
    main()
