"""Compiles `esp_ingestd.core` while a wheel is built; docs/adr/0011-compiled-core.md says why.

Hatchling calls `CompileCore`; it runs this file once more as a program, since setuptools changes the process it runs
in. Where there is no C compiler, the wheel holds Python alone and works the same, slower. ESP_INGESTD_COMPILE=1 makes
that an error, ESP_INGESTD_COMPILE=0 leaves the compiler out.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CORE = Path("esp_ingestd", "core")
LEFT_OUT = {
    "__init__.py",  # has no code
    "telling.py",  # mypyc knows no class made from float
}
WISH = "ESP_INGESTD_COMPILE"


class CompileCore(BuildHookInterface[Any]):
    """Adds the compiled modules to a wheel, beside their source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, unless a developer's checkout is installed in place: there the source counts as it stands."""
        wish = os.environ.get(WISH, "")
        if version == "editable" or wish == "0":
            return
        self._made = tempfile.TemporaryDirectory()
        ran = subprocess.run(  # noqa: S603  (this very file)
            [sys.executable, __file__, self._made.name],
            cwd=self.root,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if ran.returncode:
            if wish:
                raise RuntimeError(f"esp_ingestd.core cannot be compiled, as {WISH}={wish} asks:\n{ran.stdout}")
            self.app.display_warning(f"esp_ingestd.core stays Python, which is slower:\n{ran.stdout}")
            return
        made = Path(self._made.name, "lib")
        build_data["force_include"] |= {str(path): str(path.relative_to(made)) for path in made.rglob("*.so")}
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was made on the way."""
        del version, build_data, artifact_path
        if hasattr(self, "_made"):
            self._made.cleanup()


def compile_core(folder: str) -> None:
    """Compile into `folder`/lib."""
    from mypyc.build import mypycify  # noqa: PLC0415  (absent where only Python is wanted)
    from setuptools import setup  # noqa: PLC0415

    modules = sorted(str(path) for path in CORE.glob("*.py") if path.name not in LEFT_OUT)
    # The project's own configuration of mypy asks for packages that a build has no use for.
    arguments = ["--config-file=", "--ignore-missing-imports", *modules]
    extensions = mypycify(arguments, opt_level="2", debug_level="0", target_dir=folder, group_name="esp_ingestd")
    for extension in extensions:
        # Elsewhere than on x86 a compiler may join a product and a sum, and round once: other figures than Python's.
        # And what the next compiler warns of is no reason to do without.
        extension.extra_compile_args = [*extension.extra_compile_args, "-ffp-contract=off", "-Wno-error"]
    commands = ["build_ext", f"--build-lib={folder}/lib", f"--build-temp={folder}/temp"]
    setup(name="esp-ingestd-core", packages=[], py_modules=[], ext_modules=extensions, script_args=commands)


if __name__ == "__main__":
    compile_core(sys.argv[1])
