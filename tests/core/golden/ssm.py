"""Adapters of the selective-scan layers and backbones."""

import torch
from torch import nn
from torch.func import functional_call

from geovit.core.weights import load_into
from geovit.core.weights.mamba import build_mamba, mamba_arguments, mamba_state


def _loaded(module: nn.Module, state: dict) -> nn.Module:
    """Take over the dtype, and make sure that all weights have a place and all places a weight."""
    module = module.to(next(iter(state.values())).dtype).eval()
    load_into(module, {name: tensor.detach() for name, tensor in state.items()})
    return module


def mamba_block(case):
    module, x = _loaded(build_mamba(case.arguments), case.state), case.input["x"]
    assert mamba_arguments(case.state).items() >= (case.arguments.items() - {("dt_rank", "auto")})
    outputs = {"y": functional_call(module, case.state, x)}
    if "step_y" in case.output:
        with torch.no_grad():
            state, steps = module.initial_state(len(x)), []
            for t in range(x.shape[1]):
                y, state = module.step(x[:, t], state)
                steps.append(y)
        outputs |= {"step_y": torch.stack(steps, 1), "step_conv_state": state.conv_BDW, "step_ssm_state": state.ssm_BDN}
    return outputs


def vim_mamba(case):
    state = mamba_state(case.state)
    module = _loaded(build_mamba(case.arguments), state)
    return {"y": functional_call(module, state, case.input["x"])}


ADAPTERS = {"mamba_block": mamba_block, "vim_mamba": vim_mamba}
