"""The parts of the package that pyproject.toml cannot say: compiled modules, Twisted's plugins."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel

HERE = Path(__file__).parent
# What the compiled modules include.
PARTS = ("_limits", "_wire", "_table", "_labels", "_message", "_histogram")
# Make the usual request many times cheaper. Without a compiler the package works as well, on Python
# alone.
COMPILED = [
    Extension(
        f"telemeter.convert.{name}",
        [f"telemeter/convert/{name}.pyx"],
        depends=[f"telemeter/convert/{part}.pxi" for part in PARTS],
        optional=True,
    )
    for name in ("_upload", "_write", "_collect")
] + [
    Extension(
        "telemeter.store.records",
        ["telemeter/store/records.py"],
        depends=["telemeter/store/records.pxd"],
        optional=True,
    )
]


def write_limits() -> None:
    """Write the limits that Python knows for the compiled modules, if they are not there yet."""
    names = runpy.run_path(str(HERE / "telemeter/samples/limits.py"))
    limits = {name: value for name, value in names.items() if name.isupper()}
    enum = "".join(f"    {name} = {value}\n" for name, value in limits.items())
    held = "".join(f'    "{name}": {name},\n' for name in limits)
    text = (
        "# Made by setup.py of telemeter/samples/limits.py, which says what each is.\n\n"
        f"cdef enum:\n{enum}\n"
        f"#: What was built in, for the tests.\nLIMITS = {{\n{held}}}\n"
    )
    path = HERE / "telemeter/convert/_limits.pxi"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


class WheelOfWhatWasBuilt(bdist_wheel):  # type: ignore[misc]
    """A wheel that says whether there is compiled code in it: without, every Python takes it."""

    def run(self) -> None:
        self.reinitialize_command("build_ext").inplace = False
        self.run_command("build_ext")
        build_ext = self.get_finalized_command("build_ext")
        paths = [Path(build_ext.get_ext_fullpath(module.name)) for module in COMPILED]
        if not any(path.exists() for path in paths):
            self.distribution.ext_modules = []
            self.root_is_pure = True
        super().run()


write_limits()
# To try the package as it is where there is no compiler, without taking away this machine's.
IS_COMPILED = os.environ.get("TELEMETER_COMPILED", "yes") != "no"
setup(
    # twisted.plugins has no __init__.py on purpose: Twisted finds plugins by folder, and a second
    # __init__.py there would hide its own.
    packages=[*find_packages(include=["telemeter", "telemeter.*"]), "twisted.plugins"],
    # Written out so that an editable install puts this folder on the path, where Twisted finds the
    # plugins; the import hook that setuptools uses otherwise hides them from it.
    package_dir={"": "."},
    package_data={
        "telemeter": ["py.typed"],
        "telemeter.convert": ["*.pyx", "*.pxi", "*.pyi"],
        "telemeter.store": ["*.pxd"],
        "telemeter.samples.proto": ["*.proto", "*.pyi"],
        "telemeter.web": ["static/*"],
    },
    ext_modules=COMPILED if IS_COMPILED else [],
    cmdclass={"bdist_wheel": WheelOfWhatWasBuilt},
    zip_safe=False,
)
