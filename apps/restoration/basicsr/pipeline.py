"""BasicSR's pipelines with what they lack for these networks."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import torch

from .loading import import_basicsr
from .models import NAMES, TiledTest
from .networks import register


def prepare() -> None:
    """Import BasicSR and add our networks to it. Done again in every process that loads data for it.

    Raises:
        ImportError: if basicsr is not installed.
    """
    import_basicsr()
    from basicsr.models.sr_model import SRModel
    from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY

    register(ARCH_REGISTRY)
    for name in NAMES:
        if name not in MODEL_REGISTRY:
            MODEL_REGISTRY.register(type(name, (TiledTest, SRModel), {"__module__": __name__}))


def run(arguments: Sequence[str]) -> None:
    """Run BasicSR's training, or with ``--test`` its test, below the current folder.

    Args:
        arguments: of BasicSR (``-opt FILE``, ``--launcher``, ``--auto_resume``, ``--debug``, ``--force_yml``), and ``--test``.
    """
    prepare()
    import basicsr.test
    import basicsr.train

    testing = "--test" in arguments
    sys.argv[1:] = [argument for argument in arguments if argument != "--test"]  # BasicSR reads it itself
    if testing:
        basicsr.test.test_pipeline(os.getcwd())
    else:
        basicsr.train.load_resume_state = _load_resume_state
        basicsr.train.train_pipeline(os.getcwd())


def _load_resume_state(opt: dict[str, Any]) -> Any:
    """Load the state to resume from, as BasicSR does, on machines without CUDA as well."""
    from basicsr.utils import check_resume, scandir

    folder = os.path.join("experiments", opt["name"], "training_states")
    if opt["auto_resume"] and os.path.isdir(folder):
        saved = [int(float(name.removesuffix(".state"))) for name in scandir(folder, suffix="state")]
        if saved:
            opt["path"]["resume_state"] = os.path.join(folder, f"{max(saved)}.state")
    path = opt["path"].get("resume_state")
    if not path:
        return None
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    state = torch.load(path, map_location=device, weights_only=True)
    check_resume(opt, state["iter"])
    return state
