"""Packaging: everything is read from settings.ini; trained weights and image sets travel as sub-package folders."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

root = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(root / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    keywords=cfg["keywords"].split(),
    url=cfg["git_url"],
    python_requires=f">={cfg['min_python']}",
    packages=["vaebm", "vaebm.checkpoints", "vaebm.sets"],
    package_dir={"vaebm.checkpoints": "data/checkpoints", "vaebm.sets": "data/sets"},
    package_data={"vaebm": ["py.typed"], "vaebm.checkpoints": ["*.safetensors", "*.json"], "vaebm.sets": ["*.npz", "README.md"]},
    install_requires=cfg["requirements"].split(),
    entry_points={"console_scripts": ["vaebm-run = vaebm.cli:main"]},
    extras_require={"dev": cfg["dev_requirements"].split()},
)
