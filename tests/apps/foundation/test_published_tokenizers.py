"""DOFA, ChannelViT and SpecViT: parity with torchgeo, and what is read of published files."""

import importlib.util
from pathlib import Path

import pytest
import torch

from geovit.apps.foundation.published.channelvit import channel_encoder
from geovit.apps.foundation.weights import channelvit, dofa, spectralearth

SETS = {
    "Sentinel-2": [0.443, 0.493, 0.56, 0.665, 0.704, 0.741, 0.783, 0.833, 0.865, 0.945, 1.614, 2.202],
    "one": [0.842],
    "radar": [5.405, 5.405],
    "hyperspectral": torch.linspace(0.42, 2.45, 60).tolist(),
}


@pytest.fixture(scope="module")
def torchgeo_dofa():
    """The class alone: the package imports all of its data sets with it."""
    path = Path(importlib.util.find_spec("torchgeo").origin).parent / "models" / "dofa.py"
    spec = importlib.util.spec_from_file_location("torchgeo_dofa", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DOFA


def randomised(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return module.eval()


def near(got, want, tolerance=1e-5):
    assert got.shape == want.shape
    assert float((got - want).abs().max()) <= tolerance * float(want.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("bands", SETS)
@pytest.mark.parametrize(
    "arguments",
    [
        {"img_size": 32, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 5},
        {"img_size": 42, "patch_size": 14, "embed_dim": 24, "depth": 1, "num_heads": 2, "num_classes": 0, "global_pool": False},
        {"img_size": 24, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 3, "mlp_ratio": 2.0},
    ],
    ids=["pooled", "class token", "small"],
)
def test_dofa_is_that_of_torchgeo(torchgeo_dofa, arguments, bands):
    theirs = randomised(torchgeo_dofa(**arguments))
    found = dofa.infer(theirs.state_dict())
    assert found.items() >= arguments.items() - {("num_heads", arguments["num_heads"])}
    ours = dofa.build(found | {"num_heads": arguments["num_heads"]}).eval()
    coverage = dofa.load(ours, theirs.state_dict())
    assert coverage.elements == sum(t.numel() for t in ours.state_dict().values())
    assert coverage.dropped == coverage.untouched == ()
    wavelengths = SETS[bands]
    nanometres = torch.tensor([-1.0, -2.0] if bands == "radar" else [1000 * w for w in wavelengths])
    x = torch.randn(2, len(wavelengths), arguments["img_size"], arguments["img_size"])
    want = theirs(x, wavelengths)
    near(ours(x, nanometres, 10.0), want)
    near(ours(x, nanometres, 10.0), want)  # with the weights of the sensor at hand
    order = torch.randperm(len(wavelengths))
    near(ours(x[:, order], nanometres[order], 10.0), want)


def test_files_of_the_authors_lack_a_norm_and_bring_parts_of_the_pretraining(torchgeo_dofa):
    arguments = {"img_size": 32, "patch_size": 16, "embed_dim": 48, "depth": 1, "num_heads": 4, "num_classes": 0}
    theirs = torchgeo_dofa(**arguments)
    state = {name: t for name, t in theirs.state_dict().items() if not name.startswith("fc_norm.")}
    extra = {
        "mask_token": torch.zeros(1, 1, 48),
        "norm.weight": torch.ones(48),
        "norm.bias": torch.ones(48),
        "projector.weight": torch.zeros(8, 48),
        "projector.bias": torch.zeros(8),
    }
    for file in (state, state | extra):
        found = dofa.infer(file)
        assert found["global_pool"]
        assert found["num_classes"] == 0
        ours = dofa.build(found | {"num_heads": 4}).eval()
        coverage = dofa.load(ours, file)
        assert coverage.dropped == tuple(extra)[: len(file) - len(state)]
        assert coverage.untouched == ("norm.weight", "norm.bias")
        assert coverage.tensors == len(state)
        assert coverage.elements == sum(t.numel() for t in state.values()) - 48  # the class token's place is added to it
        x = torch.randn(1, 2, 32, 32)
        with torch.no_grad():
            near(ours(x, torch.tensor([665.0, 842.0]), 10.0), theirs.eval()(x, [0.665, 0.842]))
    with pytest.raises(ValueError, match=r"1 unexpected \(what\)"):
        dofa.load(ours, state | {"what": torch.zeros(1)})
    with pytest.raises(ValueError, match="2 missing"):
        dofa.load(ours, {name: t for name, t in state.items() if "fclayer.w1" not in name})


def test_dofa_of_the_second_version_has_patches_of_14_pixels_and_layer_scale():
    ours = dofa.build_second({"img_size": 28, "embed_dim": 24, "depth": 2, "num_heads": 2})
    assert ours.encoder.patch == 14
    assert float(ours.encoder.blocks[0].scale1.detach()[0]) == pytest.approx(1e-5)
    # The layout: torchgeo's, the transformer under "model.", and a norm that nothing uses.
    file = {"norm.weight": torch.ones(24), "norm.bias": torch.zeros(24)}
    file |= {"model.cls_token": torch.randn(1, 1, 24), "model.pos_embed": torch.randn(1, 5, 24)}
    names = {".mixer.": ".attn.", ".channel_mixer.": ".mlp.", ".scale1": ".ls1.gamma", ".scale2": ".ls2.gamma"}
    generator = {
        "fc1": "fclayer.w1", "fc2": "fclayer.w2", "blocks": "weight_generator.transformer_encoder.layers",
        "learned": "weight_generator.weight_tokens", "bias_token": "weight_generator.bias_token",
        "to_weight": "weight_generator.fc_weight", "to_bias": "weight_generator.fc_bias",
    }  # fmt: skip
    for name, tensor in ours.state_dict().items():
        kind, _, rest = name.removeprefix("encoder.").partition(".")
        if kind in ("blocks", "norm"):
            for own, published in names.items():
                rest = f".{rest}".replace(own, published)[1:]
            file[f"model.{kind}.{rest}"] = torch.randn_like(tensor)
        elif kind == "tokenizer":
            part, _, last = rest.partition(".")
            file["patch_embed." + generator[part] + (f".{last}" if last else "")] = torch.randn_like(tensor)
    found = dofa.infer_second(file)
    assert dofa.infer(file) is None
    assert (found["img_size"], found["patch_size"], found["depth"]) == (28, 14, 2)
    loaded = dofa.build_second(found | {"num_heads": 2})
    coverage = dofa.load_second(loaded, file)
    assert coverage.dropped == ("norm.weight", "norm.bias")
    assert torch.equal(loaded.encoder.blocks[1].scale2, file["model.blocks.1.ls2.gamma"])
    assert torch.equal(loaded.encoder.prefix, file["model.cls_token"][0] + file["model.pos_embed"][0, :1])
    assert torch.equal(loaded.encoder.tokenizer.learned, file["patch_embed.weight_generator.weight_tokens"])


@torch.no_grad()
def test_published_positions_of_channelvit_are_stretched_and_ours_are_not():
    options = {"patch": 4, "depth": 1, "heads": 2, "size": 4}
    published = channel_encoder((490.0, 842.0), 8, stretched_positions=True, **options).eval()
    ours = channel_encoder((490.0, 842.0), 8, **options).eval()
    ours.load_state_dict(published.state_dict())
    one, two = torch.tensor([490.0]), torch.tensor([490.0, 842.0])
    x = torch.randn(1, 2, 16, 16)
    # At the native size the table is meant to be taken as it is, and the published program does so for a single band.
    assert torch.equal(published.embed(x[:, :1], one, 10.0).x, ours.embed(x[:, :1], one, 10.0).x)
    assert torch.equal(ours.embed(x, two, 10.0).x[:, :1], ours.embed(x[:, :1], one, 10.0).x)
    apart = (published.embed(x, two, 10.0).x - ours.embed(x, two, 10.0).x).abs().max()
    assert 1e-5 < float(apart) < 0.05
    assert published(torch.randn(1, 2, 24, 8), two, 10.0).tokens.shape == (1, 2, 6, 2, 8)


@torch.no_grad()
def test_band_masks_reach_the_features():
    arguments = {"img_size": [16], "patch_size": 4, "in_chans": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
    model = randomised(channelvit.build(arguments))
    bands = torch.tensor(channelvit.wavelengths_of(arguments))
    x, mask = torch.randn(2, 4, 16, 16), torch.tensor([[True] * 4, [True, False, True, True]])
    masked = model.features(x, bands, 10.0, mask)
    near(masked[:1], model.features(x[:1], bands, 10.0))
    near(masked[1:], model.features(x[1:, mask[1]], bands[mask[1]], 10.0))


def test_files_of_other_systems_are_not_taken_for_these():
    files = {
        "dofa": dofa.build({"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2}),
        "channelvit": channelvit.build({"img_size": [16], "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}),
        "spectralearth": spectralearth.build({"patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2}),
    }
    for model in files.values():
        for system in (dofa, channelvit, spectralearth):
            assert system.infer(model.state_dict()) is None
    with pytest.raises(ValueError, match="SpecVisionTransformer: unknown argument depths"):
        spectralearth.build({"depths": 3})
    with pytest.raises(ValueError, match="global_pool is 'map', allowed here is 'token' or 'avg'"):
        spectralearth.build({"global_pool": "map"})
