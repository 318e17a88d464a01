"""Packaging: everything is read from settings.ini; weights, image sets, records and experiments travel as folders."""
import json
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

root = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(root / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
FOLDERS = {
    "checkpoints": "data/checkpoints",
    "results": "data/results",
    "sets": "data/sets",
    "experiments": "nbs/experiments",
    "benchmarks": "nbs/benchmarks",
}
# Weights that neither README nor most pages load: `vaebm.checkpoints.find_weights` says where they are looked for.
LEFT_OUT = ["pairs_vae*", "cifar10.safetensors", "cifar10_nvae*", "cifar10_ratio*"]
# Arrays among the records of runs that pages load.
WITH_RECORDS = ["*-energy.safetensors", "ablation-samples.safetensors", "score-samples.safetensors"]
EXTRAS = ["run", "course", "lab", "explore", "fid", "multi-gpu", "dev"]


class WithoutOutputs(build_py):
    "Notebooks travel without their outputs, which hold four fifths of their size."

    def run(self):
        super().run()
        for path in () if self.editable_mode else Path(self.build_lib).rglob("*.ipynb"):
            notebook = json.loads(path.read_text(encoding="utf-8"))
            for cell in notebook["cells"]:
                if cell["cell_type"] == "code":
                    cell["outputs"], cell["execution_count"] = [], None
            path.write_text(json.dumps(notebook, ensure_ascii=False), encoding="utf-8")


def readme():
    "README with links that work outside of the repository."
    place = f"{cfg['git_url']}/%s/{cfg['branch']}/"
    text = (root / "README.md").read_text(encoding="utf-8")
    text = re.sub(r'(!\[[^]]*\]\(|<img src=")(?!https?:)', rf"\g<1>{place % 'raw'}", text)
    return re.sub(r"(?<!!)(\[[^]]*\]\()(?!https?:|#)", rf"\g<1>{place % 'blob'}", text)


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme(),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    keywords=cfg["keywords"].split(),
    url=cfg["git_url"],
    python_requires=f">={cfg['min_python']}",
    packages=["vaebm", *(f"vaebm.{name}" for name in FOLDERS)],
    package_dir={f"vaebm.{name}": place for name, place in FOLDERS.items()},
    package_data={
        "vaebm": ["py.typed"],
        "vaebm.checkpoints": ["*.safetensors", "*.json", "README.md"],
        "vaebm.results": ["*.json", *WITH_RECORDS],
        "vaebm.sets": ["*.npz", "README.md"],
        "vaebm.experiments": ["*.ipynb"],
        "vaebm.benchmarks": ["*.ipynb"],
    },
    exclude_package_data={"vaebm.checkpoints": LEFT_OUT},
    install_requires=cfg["requirements"].split(),
    entry_points={"console_scripts": ["vaebm-run = vaebm.cli:main", "vaebm-teach = vaebm.teaching:main"]},
    extras_require={name: cfg[f"{name}_requirements"].split() for name in EXTRAS},
    cmdclass={"build_py": WithoutOutputs},
)
