"""MambaIR of csguoh/MambaIR: the classical, light and denoising networks."""

from torch.func import functional_call

from geovit.apps.restoration.weights.mambair import LAYOUT, build, infer


def mambair(case):
    found = infer(case.state)
    assert all(case.arguments[name] == value for name, value in found.items() if name in case.arguments)
    network = build(case.arguments).to(case.input["x"].dtype).eval()
    state = LAYOUT.to_ours(network, case.state)
    assert state.keys() == network.state_dict().keys()
    return {"y": functional_call(network, state, case.input["x"])}


ADAPTERS = {"mambair_classical": mambair, "mambair_denoise": mambair, "mambair_light": mambair}
