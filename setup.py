"""The package: what it is called, what it needs, and where its plugins go."""

from __future__ import annotations

from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel

HERE = Path(__file__).parent

RUNTIME = [
    "twisted[tls]>=24.11",
    "treq>=24.9",
    "klein>=24.8",
    "protobuf>=7.35.1,<9",
    "python-snappy>=0.7.3",
    "pyjwt[crypto]>=2.10",
    "service-identity>=24.1",
    "pyopenssl>=25.0",
    "prometheus-client>=0.22",
    "promql-parser>=0.12",
    "oauthlib>=3.2",
    "google-re2>=1.1.20250805",
]
# What the demo needs where there is no Prometheus.
DEMO = ["psutil>=6.0"]
TEST = [
    *DEMO,
    "pytest>=8.3",
    "pytest-twisted>=1.14",
    "pytest-xdist>=3.6",
    "hypothesis>=6.120",
    "trustme>=1.2",
    "cython>=3.1",
    "playwright>=1.55",
]
DEVELOP = [
    *TEST,
    "ruff>=0.14",
    "mypy>=1.18",
    "mypy-zope>=1.0.14",
    "types-oauthlib>=3.2",
    "types-protobuf>=6.32",
    "grpcio-tools>=1.76",
]

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
    name="telemeter",
    version="0.1.0",
    description="Push federation for Prometheus: an agent, a server, and remote write behind them",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
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
    install_requires=RUNTIME,
    extras_require={"demo": DEMO, "test": TEST, "dev": DEVELOP},
    entry_points={
        "console_scripts": [
            "telemeter-reload = telemeter.tap.reload_command:main",
            "telemeter-token = telemeter.tap.token:main",
        ]
    },
    ext_modules=COMPILED,
    cmdclass={"bdist_wheel": WheelOfWhatWasBuilt},
    zip_safe=False,
    classifiers=[
        "Framework :: Twisted",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: System :: Monitoring",
        "Typing :: Typed",
    ],
)
