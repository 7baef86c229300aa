"""Imports point one way: from programs down to utils, those inside functions included, and never in
a circle.
"""

import ast
import graphlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Each room may import what stands below it. op_utils.py and utils.py are rooms of their own.
ROOMS = [
    "programs",
    "reports",
    "ablations",
    "analysis",
    "cli",
    "exports",
    "ekg",
    "engine",
    "op_utils",
    "dataloader",
    "coupling",
    "nets",
    "distribution",
    "files",
    "utils",
]


def modules():
    """dict module name -> path, of everything but tests and benchmarks."""
    paths = [path for path in ROOT.glob("*.py")]
    paths += [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    names = {path: path.relative_to(ROOT).with_suffix("").parts for path in paths}
    return {
        ".".join(parts[:-1] if parts[-1] == "__init__" else parts): path
        for path, parts in names.items()
    }


def room_of(module):
    first = module.partition(".")[0]
    return first if first in ROOMS else "programs"


def imports_of(path, known):
    """The modules of the project that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports by a relative name"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in inner]
        found |= {name for name in names if name in known}
    return found


KNOWN = modules()


def test_every_room_is_there():
    assert {room_of(module) for module in KNOWN} == set(ROOMS)


@pytest.mark.parametrize("module", sorted(KNOWN))
def test_imports_point_down(module):
    above = ROOMS[: ROOMS.index(room_of(module))]
    for imported in imports_of(KNOWN[module], KNOWN) - {module}:
        # These know the flags of the programs that prune.
        program = module in ("ablation", "report", "analyze", "publish") and imported in (
            "train_cifar",
            "train_imagenet",
        )
        assert room_of(imported) not in above and (room_of(imported) != "programs" or program), (
            f"{module} -> {imported}"
        )


def test_imports_run_in_no_circle():
    """A package's __init__ counts for names imported from it, not for its other modules."""
    graph = {module: imports_of(path, KNOWN) - {module} for module, path in KNOWN.items()}
    list(graphlib.TopologicalSorter(graph).static_order())


def test_the_engine_would_serve_another_method():
    for module, path in KNOWN.items():
        if room_of(module) == "engine":
            assert not any(room_of(imported) == "ekg" for imported in imports_of(path, KNOWN)), (
                module
            )


def test_the_root_holds_programs_and_two_more_files():
    programs = {"train_cifar.py", "train_imagenet.py", "test.py", "ablation.py", "report.py"}
    programs |= {"analyze.py", "prune_keras.py", "export.py", "publish.py"}
    assert {path.name for path in ROOT.glob("*.py")} == programs | {"op_utils.py", "utils.py"}
