"""A Python with PyTorch for bench/train.py, installed once into bench/.torch."""

import os
import subprocess
import sys

from harness import brief, in_own_process, say

from utils import UserError

HERE = os.path.dirname(os.path.abspath(__file__))
TORCH_PROGRAM, TORCH_FOLDER = os.path.join(HERE, "torch_resnet.py"), os.path.join(HERE, ".torch")
TORCH_PACKAGES = ["torch==2.13.0", "numpy"]


def torch_python(wanted):
    """(path of a Python with torch, version of torch); (None, None) for --torch none.

    Raises UserError if that Python has no torch.
    """
    if wanted == "none":
        return None, None
    python = install_torch() if wanted == "install" else wanted
    try:
        (answer,) = in_own_process(TORCH_PROGRAM, {"cell": "version"}, python)
    except (OSError, RuntimeError) as error:
        raise UserError(f"--torch {wanted}: {python} has no PyTorch: {error}") from error
    return python, answer["version"]


def install_torch():
    """Path of the Python in bench/.torch. Installs it first if it is missing or incomplete."""
    python = os.path.join(TORCH_FOLDER, "Scripts" if os.name == "nt" else "bin", "python")
    ready = os.path.join(TORCH_FOLDER, ".ready")
    if os.path.exists(ready):
        return python
    say(f"installing {' '.join(TORCH_PACKAGES)} in {os.path.relpath(TORCH_FOLDER)}, once")
    flags = "--quiet", "--disable-pip-version-check"
    pip = [python, "-m", "pip", "install", *flags, *TORCH_PACKAGES]
    for command in ([sys.executable, "-m", "venv", TORCH_FOLDER], pip):
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            lines = f"{ended.stdout}\n{ended.stderr}".splitlines()
            errors = [line for line in lines if line.startswith("ERROR")] or lines[::-1]
            raise UserError(
                f"--torch install: {brief(chr(10).join(errors))}; try --torch PYTHON or --torch"
                " none"
            )
    for name, content in ((".gitignore", "*\n"), (".ready", "")):
        with open(os.path.join(TORCH_FOLDER, name), "w") as file:
            file.write(content)
    return python
