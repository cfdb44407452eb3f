"""Adapters of the selective-scan layers and backbones."""

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from geovit.core.weights import load_into
from geovit.core.weights.mamba import build_mamba, mamba_arguments, mamba_state
from geovit.core.weights.vim import build_vim, vim_state
from geovit.core.weights.vmamba import build_ss2d, build_vss_block, build_vssm, ss2d_state, vss_block_state, vssm_state


def _loaded(module: nn.Module, state: dict) -> nn.Module:
    """Take over the dtype, and make sure that all weights have a place and all places a weight."""
    module = module.to(next(iter(state.values())).dtype).eval()
    load_into(module, {name: tensor.detach() for name, tensor in state.items()})
    return module


class Call(nn.Module):
    """Another method of a module than ``forward``, for ``functional_call``."""

    def __init__(self, module, method):
        super().__init__()
        self.module, self.method = module, method

    def forward(self, x):
        return self.method(x)


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
        outputs |= {"step_y": torch.stack(steps, 1), "step_conv_state": state.conv, "step_ssm_state": state.ssm}
    return outputs


def vim_mamba(case):
    state = mamba_state(case.state)
    module = _loaded(build_mamba(case.arguments), state)
    return {"y": functional_call(module, state, case.input["x"])}


def vmamba_ss2d(case):
    state = ss2d_state(case.state)
    module, x = _loaded(build_ss2d(case.arguments), state), case.input["x"]
    if case.arguments.get("channel_first"):
        return {"y": functional_call(module, state, x.movedim(1, -1)).movedim(-1, 1)}
    return {"y": functional_call(module, state, x)}


def vmamba_vssblock(case):
    state = vss_block_state(case.state)
    module, x = _loaded(build_vss_block(case.arguments), state), case.input["x"]
    if case.arguments.get("channel_first"):
        return {"y": functional_call(module, state, x.movedim(1, -1)).movedim(-1, 1)}
    return {"y": functional_call(module, state, x)}


def vmamba_model(case):
    state, head = vssm_state(case.state)
    module = _loaded(build_vssm(case.arguments), state)
    tokens = functional_call(module, state, case.input["image"])
    return {"logits": F.linear(tokens.mean((1, 2)), head["weight"], head["bias"])}


def vim_model(case):
    state, head = vim_state(case.state)
    module, image, pool = _loaded(build_vim(case.arguments), state), case.input["image"], case.arguments.get("final_pool_type")
    part = {"none": lambda image: module.sequence(image)[:, -1], "max": module.sequence, "all": module.sequence}
    read = part.get(pool, module.pooled) if module.class_at == "none" else module.pooled
    features = functional_call(Call(module, read), {f"module.{name}": t for name, t in state.items()}, image)
    logits = F.linear(features, head["weight"], head["bias"])
    return {"features": features, "logits": logits.amax(1) if pool == "max" and features.ndim == 3 else logits}


ADAPTERS = {
    "vim_model": vim_model,
    "mamba_block": mamba_block,
    "vim_mamba": vim_mamba,
    "vmamba_ss2d": vmamba_ss2d,
    "vmamba_vssblock": vmamba_vssblock,
    "vmamba_model": vmamba_model,
}
