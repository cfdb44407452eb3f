"""From a module to a program of PyTorch's own operations, with variable sizes."""

import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import torch
from torch.export import Dim, ExportedProgram

from .exportable import Exportable

_MOST = 1 << 15  # positions on an axis
_BATCH = 1 << 12
_AXES = ("depth", "height", "width")


def trace(exportable: Exportable) -> ExportedProgram:
    """Write down what a module does; ops run in their plain form, and only what is said to be fixed becomes constant.

    Raises:
        ValueError: if the module cannot be written down so, with the reason.
    """
    generator = torch.Generator().manual_seed(0)
    x = exportable.sample((1 if exportable.single else 2, exportable.channels, *exportable.size(exportable.traced)), generator)
    names = _AXES[-len(exportable.multiple) :]
    variable = {
        axis: m * Dim(f"{name}_steps", min=least // m, max=_MOST // m) if m > 1 else Dim(name, min=least, max=_MOST)
        for axis, (name, m, least) in enumerate(zip(names, exportable.multiple, exportable.smallest, strict=True), 2)
        if m
    }
    batch = {} if exportable.single else {0: Dim("batch", min=1, max=_BATCH)}
    shapes = ({**batch, **variable},)
    noisy = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = noisy.level
    noisy.setLevel(logging.CRITICAL)
    try:
        with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")  # of the tracer to its own developers
            program = torch.export.export(exportable.module, (x,), dynamic_shapes=shapes, strict=False)
    except Exception as error:
        told = next((line.strip(" -") for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"{exportable.model} cannot be exported with variable sizes: {told[:240]}") from error
    finally:
        noisy.setLevel(level)
    own = sorted({str(node.target) for node in program.graph.nodes if "geovit" in str(node.target)})
    if own:
        raise ValueError(f"{exportable.model} cannot be exported: it has operations of geovit alone ({', '.join(own)})")
    return program
