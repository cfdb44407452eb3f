"""CFSR of Aitical/CFSR, NAFNet of megvii-research/NAFNet, Restormer of swz30/Restormer."""

from torch import Tensor
from torch.func import functional_call

from geovit.apps.restoration.weights import ARCHITECTURES


def network(case, name: str) -> dict[str, Tensor]:
    (architecture,) = (a for a in ARCHITECTURES if a.name == name)
    x = case.input["x"]
    ours = architecture.build(case.arguments).to(x.dtype).eval()
    state = architecture.layout.to_ours(ours, case.state)
    assert ours.state_dict().keys() == state.keys()
    return {"y": functional_call(ours, state, x)}


ADAPTERS = {
    "cfsr": lambda case: network(case, "cfsr"),
    "nafnet": lambda case: network(case, "nafnet"),
    "nafnet_local": lambda case: network(case, "nafnet"),
    "restormer_biasfree": lambda case: network(case, "restormer"),
    "restormer_withbias": lambda case: network(case, "restormer"),
}
