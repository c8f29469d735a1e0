"""Reach a Python process that `zeromean run` started, directly or not.

PYTHONPATH leads every Python interpreter here, of any version and environment. Therefore this file
uses old syntax and the standard library alone, and does nothing visible before torch is imported.
"""

import json
import operator
import os
import random
import sys
import threading
import time

FOLDER = os.path.dirname(os.path.abspath(__file__))
MISSING = (
    "zeromean: {} has no zeromean, so its optimizers are not reached."
    " Install zeromean into that environment, or run its own `zeromean run`.\n"
)


class AfterImport(object):
    """A meta-path finder that calls a function after a module was executed.

    It stays in sys.meta_path: removing an entry during a search would skip the next finder.
    """

    def __init__(self, actions):
        self.actions = actions

    def find_spec(self, name, path=None, target=None):
        if name not in self.actions:
            return None
        for finder in list(sys.meta_path):
            find_spec = None if finder is self else getattr(finder, "find_spec", None)
            spec = find_spec(name, path, target) if find_spec else None
            if spec is not None:
                if spec.loader is not None:  # a folder without __init__.py has none
                    call_after(spec, self.actions)
                return spec
        return None


def call_after(spec, actions):
    """Call the action after the loader of a spec has executed the module.

    Programs search for torch without importing it, so the search alone leaves the action pending.
    """
    loader = spec.loader
    execute = loader.exec_module

    def exec_module(module):
        del loader.exec_module
        execute(module)
        action = actions.pop(spec.name, None)
        if action:
            guarded(action, module)

    loader.exec_module = exec_module


def guarded(action, *args):
    """Call an action; record its error instead of breaking the program."""
    try:
        action(*args)
    except Exception as error:
        note("error", "{}: {}".format(type(error).__name__, error))


def note(kind, text):
    """Write a record without zeromean."""
    path = os.path.join(OPTIONS["records"], "{}-{}".format(os.getpid(), time.time()))
    try:
        with open(path + ".tmp", "w") as file:
            json.dump({kind: text, "pid": os.getpid()}, file)
        os.rename(path + ".tmp", path + ".boot.json")
    except (IOError, OSError):
        pass  # the command has ended, and its records are gone


def after_torch(torch):
    """Seed torch, and hand over to zeromean, which waits for the first step of an optimizer."""
    if OPTIONS["seed"] is not None:
        torch.manual_seed(OPTIONS["seed"])
    if OPTIONS["shift_seeds"]:
        shift(torch.random, "manual_seed")
        torch.manual_seed = torch.random.manual_seed
        for name in ("manual_seed", "manual_seed_all"):
            shift(torch.cuda, name)
    try:
        from zeromean.programs import attach
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "zeromean":
            raise
        sys.stderr.write(MISSING.format(sys.executable))
        note("missing", sys.executable)
    else:
        attach.install(os.environ["ZEROMEAN_RUN"])


def after_numpy(numpy_random):
    """Seed NumPy."""
    if OPTIONS["seed"] is not None:
        numpy_random.seed(OPTIONS["seed"])
    if OPTIONS["shift_seeds"]:
        shift(numpy_random, "seed", 2**32)


def shift(module, name, modulus=2**63):
    """Replace a function that takes a seed by one that adds a number to the seed first."""
    original = getattr(module, name)

    def shifted(seed=None, *args, **kwargs):
        seed = kwargs.pop("a", seed)  # its name in random.seed
        if getattr(SHIFTING, "now", False):  # torch.manual_seed calls that of torch.cuda
            return original(seed, *args, **kwargs)
        SHIFTING.now = True
        try:
            return original(shifted_seed(seed, modulus), *args, **kwargs)
        finally:
            SHIFTING.now = False

    shifted.__doc__, shifted.__name__ = original.__doc__, name
    setattr(module, name, shifted)


def shifted_seed(seed, modulus):
    """Add a number to a seed, or to each of several; None and texts have nothing to add to."""
    if hasattr(seed, "tolist"):  # an array or a number of NumPy or torch
        seed = seed.tolist()
    if isinstance(seed, (list, tuple)):  # Python 3.10 takes a tuple but no list
        return type(seed)([shifted_seed(one, modulus) for one in seed])
    if isinstance(seed, float):
        return seed + OPTIONS["shift_seeds"]
    try:
        return (operator.index(seed) + OPTIONS["shift_seeds"]) % modulus
    except TypeError:
        return seed


def seed_random():
    """Seed the standard library."""
    if OPTIONS["seed"] is not None:
        random.seed(OPTIONS["seed"])
    if OPTIONS["shift_seeds"]:
        shift(random, "seed")


def wait_for_torch():
    """Prepare the actions for the modules that the program may import."""
    actions = {"torch": after_torch, "numpy.random": after_numpy}
    seed_random()
    for name in list(actions):
        if name in sys.modules:  # a .pth file has imported it
            guarded(actions.pop(name), sys.modules[name])
    sys.meta_path.insert(0, AfterImport(actions))


def run_next():
    """Run the sitecustomize that this one hides, in its place."""
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


OPTIONS = json.loads(os.environ.get("ZEROMEAN_RUN") or "null")
SHIFTING = threading.local()
# Child processes find this folder through PYTHONPATH; this process needs it no longer.
sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != FOLDER]
if sys.version_info >= (3, 6):
    if OPTIONS:
        guarded(wait_for_torch)
    # Last, because its error has to reach Python, as it does without this file.
    run_next()
