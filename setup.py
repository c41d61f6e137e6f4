"""The parts of the package that pyproject.toml cannot say: compiled modules, Twisted's plugins."""

from __future__ import annotations

from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel

# What the compiled modules include.
PARTS = ("_wire", "_table", "_labels", "_message", "_histogram")
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
    ext_modules=COMPILED,
    cmdclass={"bdist_wheel": WheelOfWhatWasBuilt},
    zip_safe=False,
)
