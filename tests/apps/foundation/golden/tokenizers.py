"""DOFA of torchgeo, ChannelViT of insitro/ChannelViT, the adapter and SpecViT of AABNassim/spectral_earth."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from geovit.apps.foundation.weights import channelvit, dofa, spectralearth
from geovit.core.layers.tokenizers import SpectralAdapter


def called(module: nn.Module, state: dict[str, Tensor], *args):
    module = module.to(args[0].dtype).eval()
    own = module.state_dict()
    assert {key: t.shape for key, t in own.items()} == {key: t.shape for key, t in state.items()}
    measured = dict(module.named_buffers())  # of batch norm, and without gradients
    return functional_call(module, {key: t.detach() if key in measured else t for key, t in state.items()}, args)


def dofa_classifier(case) -> dict[str, Tensor]:
    model = dofa.build(case.arguments)
    state = dofa.to_ours(case.state)
    # Micrometres to nanometres in float32, as it is done there.
    wavelengths = case.input["wavelengths"].detach().float() * 1000
    seen = {}
    # Positions are added in place.
    model.encoder.tokenizer.register_forward_hook(lambda module, given, result: seen.update(tokens=result.x.clone()))
    model.head.register_forward_hook(lambda module, given, result: seen.update(features=given[0]))
    logits = called(model, state, case.input["image"], wavelengths, 10.0)
    tokenizer = model.encoder.tokenizer
    prefix = "encoder.tokenizer."
    parts = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    return {
        "patch_tokens": seen["tokens"].flatten(1, 3),
        "waves": functional_call(Codes(tokenizer), {f"of.{name}": t for name, t in parts.items()}, wavelengths),
        "features": seen["features"],
        "logits": logits,
    }


class Codes(nn.Module):
    """The part of a tokeniser that describes wavelengths."""

    def __init__(self, of) -> None:
        super().__init__()
        self.of = of

    def forward(self, wavelengths: Tensor) -> Tensor:
        return self.of.codes(wavelengths)


def channels(case) -> dict[str, Tensor]:
    model = channelvit.build(case.arguments)
    state = channelvit.to_ours(case.state)
    bands = torch.tensor(channelvit.wavelengths_of(case.arguments))
    if case.arguments.get("num_classes", 0) == 0:
        assert isinstance(model.head, nn.Identity)
    embedded, normed = [], []
    encoder = model.encoder
    encoder.blocks[0].register_forward_pre_hook(lambda module, given: embedded.append(given[0]))
    encoder.norm.register_forward_hook(lambda module, given, result: normed.append(result))
    image = case.input["image"]
    features = []
    # The one that samples looks the channels up for each image.
    kinds = [list(range(len(image)))] if same_rows(case.input["channels"]) else [[i] for i in range(len(image))]
    for which in kinds:
        called(model, state, image[which], bands[case.input["channels"][which[0]]], 10.0)
        features.append(normed[-1][:, 0])
    return {"cls_feature": torch.cat(features), "tokens": torch.cat(embedded), "intermediate_0": torch.cat(normed)}


def same_rows(table: Tensor) -> bool:
    return bool((table == table[:1]).all())


def adapter(case) -> dict[str, Tensor]:
    return {"x": called(SpectralAdapter(), spectralearth.adapter_to_ours(case.state), case.input["cube"])}


def spectral_vit(case) -> dict[str, Tensor]:
    model = spectralearth.build(case.arguments)
    cube = case.input["cube"]
    last = []
    model.encoder.norm.register_forward_hook(lambda module, given, result: last.append(result))
    out = called(model, spectralearth.to_ours(case.state), cube, torch.linspace(420, 2450, cube.shape[1]), 30.0)
    return {"out": out, "tokens": last[-1][:, 1:]}


ADAPTERS = {
    "channelvit": channels,
    "channelvit_hcs": channels,
    "dofa": dofa_classifier,
    "spectralearth_adapter": adapter,
    "spectralearth_specvit": spectral_vit,
}
