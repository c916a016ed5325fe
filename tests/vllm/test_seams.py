"""The table of what is leaned on, and the code that leans, without vLLM."""

import ast
import builtins
import logging
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import transformers

from tokenprune_kernels.integrations.vllm import requirement
from tokenprune_kernels.vision_selector import VisionSelectorScorer

SOURCES = sorted(Path(requirement.__file__).parent.glob("*.py"))
TREES = {path.stem: ast.parse(path.read_text()) for path in SOURCES}
NODES = [node for tree in TREES.values() for node in ast.walk(tree)]
# The classes that families are derived from are not in the table: an import that fails says so.
MODELS = "vllm.model_executor.models."
# Only an engine on a CPU patches it; the registry and the version are what `register` finds out first.
APART = {"vllm.v1.worker.cpu_model_runner:CPUModelRunner", "vllm:ModelRegistry", "vllm:__version__"}
APART_NAMES = {"models", "register_model", "load_model_cls"}
APART_NAMES |= {"get_video_repl", "config", "load_weights"}  # read when a module is imported; of every model of vLLM
# Their attributes have nothing to do with vLLM.
OTHERS = (
    *(getattr(builtins, name) for name in dir(builtins)),
    *(torch, torch.Tensor, torch.nn, torch.nn.functional, torch.nn.Linear(1, 1), np, np.int64, np.ndarray),
    *(logging, logging.Logger, OrderedDict, Path, ModuleType, VisionSelectorScorer, VisionSelectorScorer(1, 1)),
    *(__import__(name) for name in ("importlib", "inspect", "os", "time")),
    type("Counter", (), {"labels": 0, "inc": 0}),  # of prometheus_client
)
CONFIGURATIONS = (transformers.LlavaNextConfig(), transformers.Qwen3VLConfig())


def imported():
    """`module:name` of all that is imported from vLLM."""
    return {
        f"{node.module}:{alias.name}"
        for node in NODES
        if isinstance(node, ast.ImportFrom) and not node.level and node.module.partition(".")[0] == "vllm"
        for alias in node.names
    }


def used():
    """The attributes that are read or called, and the keyword arguments of what is imported from vLLM."""
    names = {name.partition(":")[2] for name in imported()}
    attributes = {node.attr for node in NODES if isinstance(node, ast.Attribute)}
    calls = [node for node in NODES if isinstance(node, ast.Call)]
    return attributes | {
        keyword.arg
        for call in calls
        if getattr(call.func, "id", getattr(call.func, "attr", "")) in names
        for keyword in call.keywords
        if keyword.arg
    }


def own():
    """What this package defines: functions, classes, fields, attributes, and modules."""
    names = set(TREES) | {"weight", "arguments"}  # of a row of METHODS
    for node in NODES:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
            for statement in node.body:
                # Without a value, an attribute of vLLM's is annotated, unless it is the field of a dataclass.
                defined = isinstance(statement, ast.AnnAssign) and (statement.value or node.decorator_list)
                targets = [statement.target] if defined else []
                targets += statement.targets if isinstance(statement, ast.Assign) else []
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
                # A method of which vLLM's is called is vLLM's.
                if isinstance(statement, ast.FunctionDef) and not calls_super(statement):
                    names.add(statement.name)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            names.add(node.attr)
    return names


def is_self(node):
    return isinstance(node, ast.Name) and node.id == "self"


def assigned(name):
    """The values that are given to a name anywhere."""
    nodes = [node for node in NODES if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    return [node.value for node in nodes if node.targets[0].id == name]


def calls_super(function):
    return any(
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Call)
        and getattr(node.value.func, "id", "") == "super"
        and node.attr == function.name
        for node in ast.walk(function)
    )


def families():
    """What the classes of models say that they lean on."""
    return {name for value in assigned("leans_on") for name in ast.literal_eval(value)}


def table():
    return {name for names in requirement.SEAMS.values() for name in names}


def test_everything_that_is_imported_is_in_the_table():
    listed = {owner: set(names) for owner, names in requirement.SEAMS.items()}
    for name in imported() - APART:
        assert name in listed or name.startswith(MODELS), name


def test_everything_that_is_used_is_in_the_table():
    others = {name for other in OTHERS for name in dir(other)}
    others |= {name for config in CONFIGURATIONS for part in (config, config.vision_config) for name in dir(part)}
    missing = used() - own() - others - APART_NAMES - table() - families()
    assert not missing, sorted(missing)


def test_everything_in_the_table_is_used():
    towers = {value.value for value in assigned("tower") if isinstance(value, ast.Constant)}
    unused = (table() | families()) - used() - towers
    assert not unused, sorted(unused)
