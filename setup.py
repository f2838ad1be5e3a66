"""Where the packages of the wheel stand; pyproject.toml says all else."""

from setuptools import find_packages, setup

setup(
    # in site-packages a `configs` of its own would be in the way of others: there it stands inside eomt
    packages=[*find_packages(include=["eomt*", "callbacks*", "datamodules*"]), "eomt.configs"],
    package_dir={"eomt.configs": "configs"},
)
