"""The public names of the package: complete, loaded when they are used, described to type checkers."""

import subprocess
import sys
from pathlib import Path

import pytest

import vaebm


@pytest.mark.parametrize('name', vaebm.__all__)
def test_public_names_exist_and_are_listed(name):
    assert getattr(vaebm, name).__doc__ and name in dir(vaebm)


def test_unknown_names_are_refused_as_python_does():
    with pytest.raises(AttributeError, match="module 'vaebm' has no attribute 'sharpen'"):
        vaebm.__getattr__('sharpen')


def test_data_load_without_figures_and_networks():
    code = (
        "import sys, vaebm.data; print(*[m for m in ('matplotlib', 'IPython', 'vaebm.nvae', 'vaebm.training')"
        " if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()
        == []
    )


def test_type_checkers_see_the_package():
    assert (Path(vaebm.__file__).parent / 'py.typed').exists()
