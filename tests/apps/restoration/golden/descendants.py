"""MambaIR, DLGSANet and CATANet, of which every case is a whole network."""

from torch import Tensor
from torch.func import functional_call

from geovit.apps.restoration.weights import catanet, dlgsanet, mambair


def network(case, architecture) -> dict[str, Tensor]:
    x = case.input["x"]
    setting = case.meta["build_options"].get("_setting")  # a class attribute there
    arguments = case.arguments | ({"setting": setting} if setting else {})
    model = architecture.build(arguments).to(x.dtype).eval()
    state = architecture.LAYOUT.to_ours(model, case.state)
    assert state.keys() == model.state_dict().keys()
    return {"y": functional_call(model, state, x)}


ADAPTERS = {
    **{f"mambair_{kind}": lambda case: network(case, mambair) for kind in ("classical", "light", "denoise")},
    "dlgsanet": lambda case: network(case, dlgsanet),
    "catanet": lambda case: network(case, catanet),
}
