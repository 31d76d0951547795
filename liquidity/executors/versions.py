"""What has to be the same on two machines that compute one job, and what differs."""

import hashlib
from functools import cache
from importlib import import_module
from pathlib import Path

# To talk to each other at all,
TALKING = ("Python", "dask", "distributed", "cloudpickle")
# and for the same digits and files.
PACKAGES = (
    "numpy",
    "scipy",
    "scikit-learn",
    "joblib",
    "pandas",
    "pyarrow",
    "mlflow",
    "llvmlite",
)
CODE = "crypto-liquidity code"
ALL = (*TALKING, *PACKAGES, CODE)


@cache
def installed():
    """The versions of this process by name; of this package the code that it began with."""
    from distributed.versions import get_versions

    return versions(get_versions(packages=PACKAGES)) | {CODE: code_on_disk()}


def versions(found):
    """The same without this package, from what Dask says of a machine."""
    python = ".".join(found["packages"]["python"].split(".")[:2])
    return found["packages"] | {"Python": python}


def differences(has, needs, names):
    """A clause on those of `names` that are not in `has` as they are in `needs`; perhaps empty."""
    wrong = [
        f"{name} {has[name]} (here {needs[name]})"
        if has.get(name)
        else f"no {name} (here {needs[name]})"
        for name in names
        if has.get(name) != needs[name]
    ]
    return f"has {', '.join(wrong)}" if wrong else ""


def unfit(needs, module):
    """On a worker: a clause on why it cannot run the functions of `module`; perhaps empty."""
    if problem := differences(installed(), needs, ALL):
        return problem
    if code_on_disk() != needs[CODE]:
        return f"was started before its {CODE} changed"
    try:
        import_module(module)
    except ImportError as error:
        return f"cannot import what is needed: {error}"
    return ""


def code_on_disk():
    """A digest of this package's files as they are now."""
    digest, package = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        code = path.read_bytes()
        digest.update(f"{path.relative_to(package)} {len(code)}\n".encode() + code)
    return digest.hexdigest()[:12]
