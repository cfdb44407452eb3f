"""SwinIR, HAT and DRCT, of which every case is a whole network."""

from torch import Tensor
from torch.func import functional_call

from geovit.apps.restoration.weights import drct, hat, swinir


def network(case, architecture) -> dict[str, Tensor]:
    x = case.input["x"]
    model = architecture.build(case.arguments).to(x.dtype).eval()
    return {"y": functional_call(model, architecture.LAYOUT.to_ours(model, case.state), x)}


ADAPTERS = {f"swinir_{kind}": lambda case: network(case, swinir) for kind in ("classical", "light", "real", "denoise")}
ADAPTERS |= {"hat": lambda case: network(case, hat), "drct": lambda case: network(case, drct)}
