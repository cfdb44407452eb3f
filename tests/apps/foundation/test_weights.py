"""Published checkpoints: which system they are of, what is loaded, what is refused, what their input must be."""

import logging
import re
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from safetensors.torch import save_file
from torch import Tensor

from geovit.apps.foundation.embedding import Tiling, embed
from geovit.apps.foundation.models import open_model
from geovit.apps.foundation.weights import UnknownSystemError, load_published, published_from
from geovit.core.sensors.batch import SensorBatch
from geovit.datasets.sensors import sensor

Fixed = tuple[dict[str, Tensor], dict[str, int]]  # a state dict, and the arguments that tensors do not tell


def tensors(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Small random numbers."""
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def blocks(name: str, dim: int, depth: int, *, apart: bool = False) -> dict[str, tuple[int, ...]]:
    """Blocks by timm's names, with query, key and value apart if asked for."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(depth):
        at = f"{name}.{i}"
        parts = [linear(f"{at}.attn.{part}", dim, dim) for part in "qkv"] if apart else [linear(f"{at}.attn.qkv", dim, 3 * dim)]
        for part in (*parts, linear(f"{at}.attn.proj", dim, dim), norm(f"{at}.norm1", dim), norm(f"{at}.norm2", dim)):
            shapes |= part
        shapes |= linear(f"{at}.mlp.fc1", dim, 4 * dim) | linear(f"{at}.mlp.fc2", 4 * dim, dim)
    return shapes


def waves(positions: Tensor, dim: int) -> Tensor:
    angles = positions[:, None] / 10_000 ** (torch.arange(dim // 2) / (dim / 2))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def plane(side: int, dim: int) -> Tensor:
    """Fixed positions of a square, behind zeros for a class token."""
    row, column = (t.flatten().float() for t in torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
    table = torch.cat([waves(column, dim // 2), waves(row, dim // 2)], dim=1)
    return torch.cat([torch.zeros(1, dim), table])[None]


def upsampling(name: str, dim: int, bands: int) -> dict[str, tuple[int, ...]]:
    shapes = {f"{name}.up_conv.weight": (dim, dim, 4, 4), f"{name}.up_conv.bias": (dim,)}
    for conv, outputs in (("res_block.conv1", dim), ("res_block.conv2", dim), ("proj_out", bands)):
        shapes |= {f"{name}.{conv}.weight": (outputs, dim, 3, 3), f"{name}.{conv}.bias": (outputs,)}
    return shapes | norm(f"{name}.up_norm", dim) | norm(f"{name}.res_norm", dim)


def satmae(
    *, groups: tuple[int, ...] = (4, 4, 2), multiscale: bool = False, dim: int = 32, side: int = 3, patch: int = 8
) -> Fixed:
    """An auto-encoder of SatMAE, or of SatMAE++."""
    bands, width, dim = sum(groups), 16, 32
    shapes = blocks("blocks", dim, 2) | blocks("decoder_blocks", width, 1) | norm("norm", dim) | norm("decoder_norm", width)
    shapes |= linear("decoder_embed", dim, width) | {"cls_token": (1, 1, dim), "mask_token": (1, 1, width)}
    for i, size in enumerate(groups):
        shapes |= {f"patch_embed.{i}.proj.weight": (dim, size, patch, patch), f"patch_embed.{i}.proj.bias": (dim,)}
        shapes |= linear(f"decoder_pred.{i}", width, size * patch * patch)
    if multiscale:
        shapes |= {"proj_up_conv.weight": (2 * bands, bands, 1, 1), "proj_up_conv.bias": (2 * bands,)}
        shapes |= norm("proj_up_norm", 2 * bands)
        shapes |= upsampling("up_block1", 2 * bands, bands) | upsampling("up_block2", 2 * bands, bands)
    count = torch.arange(float(len(groups)))
    fixed = {"pos_embed": plane(side, dim - 8), "channel_embed": waves(count, 8)[None]}
    fixed |= {"decoder_pos_embed": plane(side, width - 4)}
    fixed |= {"decoder_channel_embed": waves(torch.arange(len(groups) + 1.0), 4)[None]}
    return tensors(shapes) | fixed, {"num_heads": 4, "decoder_num_heads": 4}


def satmae_rgb(*, dim: int = 32, side: int = 3, patch: int = 8) -> Fixed:
    """The auto-encoder of SatMAE++ for colour images."""
    shapes = blocks("blocks", dim, 1) | blocks("decoder_blocks", 16, 1) | norm("norm", dim) | norm("decoder_norm", 16)
    shapes |= linear("decoder_embed", dim, 16) | linear("decoder_pred", 16, 3 * patch * patch)
    shapes |= {"cls_token": (1, 1, dim), "mask_token": (1, 1, 16), "patch_embed.proj.bias": (dim,)}
    shapes |= {
        "patch_embed.proj.weight": (dim, 3, patch, patch),
        "proj_up_conv.weight": (12, 3, 1, 1),
        "proj_up_conv.bias": (12,),
    }
    shapes |= norm("proj_up_norm", 12) | upsampling("up_block", 12, 3)
    fixed = {"pos_embed": plane(side, dim), "decoder_pos_embed": plane(side, 16)}
    return tensors(shapes) | fixed, {"num_heads": 4, "decoder_num_heads": 4}


def satmae_classifier(*, pooled: bool = False, dim: int = 32, side: int = 3, patch: int = 8) -> Fixed:
    """A classifier of groups."""
    shapes = blocks("blocks", dim, 2) | norm("fc_norm" if pooled else "norm", dim) | linear("head", dim, 5)
    shapes |= {"cls_token": (1, 1, dim), "pos_embed": (1, side * side + 1, dim - 8)}
    shapes |= {"channel_embed": (1, 3, 8), "channel_cls_embed": (1, 1, 8)}
    for i, size in enumerate((4, 4, 2)):
        shapes |= {f"patch_embed.{i}.proj.weight": (dim, size, patch, patch), f"patch_embed.{i}.proj.bias": (dim,)}
    return tensors(shapes), {"num_heads": 4}


def spectralgpt(*, classifier: bool = False, separate: bool = True, dim: int = 24, side: int = 2, cubes: int = 4) -> Fixed:
    """SpectralGPT's auto-encoder or classifier."""
    shapes = blocks("blocks", dim, 2, apart=True) | norm("norm", dim)
    shapes |= {"patch_embed.proj.weight": (dim, 1, 3, 8, 8), "patch_embed.proj.bias": (dim,)}
    parts = [("", dim)] if classifier else [("", dim), ("decoder_", 16)]
    for front, width in parts:
        both = {f"{front}pos_embed_spatial": (1, side * side, width), f"{front}pos_embed_temporal": (1, cubes, width)}
        shapes |= both if separate else {f"{front}pos_embed": (1, cubes * side * side, width)}
    if classifier:
        return tensors(shapes | linear("head", dim, 5)), {"num_heads": 3}
    shapes |= blocks("decoder_blocks", 16, 1, apart=True) | norm("decoder_norm", 16) | linear("decoder_embed", dim, 16)
    shapes |= linear("decoder_pred", 16, 192) | {"mask_token": (1, 1, 16)}
    return tensors(shapes), {"num_heads": 3, "decoder_num_heads": 2}


def vit(*, dim: int = 32, side: int = 3, depth: int = 1, prefix: str = "", norm_name: str = "norm") -> dict[str, tuple[int, ...]]:
    """What plain vision transformers have beside the embedding of patches and the classifier."""
    shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, side * side + 1, dim)}
    shapes |= blocks("blocks", dim, depth) | norm(norm_name, dim)
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


def smarties(*, classifier: bool = False, dim: int = 32, side: int = 3, patch: int = 8) -> Fixed:
    """SMARTIES' auto-encoder or classifier."""
    shapes = vit(dim=dim, side=side)
    for i in range(17):
        shapes |= linear(f"spectrum_projection.spectrum_embeds.{i}.proj", patch * patch, dim)
    if classifier:
        return tensors(shapes | linear("head", dim, 5)), {"num_heads": 4}
    shapes |= blocks("decoder_blocks", 16, 1) | norm("decoder_norm", 16) | linear("decoder_embed", dim, 16)
    shapes |= {"mask_token": (1, 1, 16), "decoder_pos_embed": (1, side * side + 1, 16)}
    for i in range(17):
        shapes |= linear(f"decoder_preds.{i}", 16, patch * patch)
    return tensors(shapes), {"num_heads": 4, "decoder_num_heads": 4}


def dofa(*, pretraining: bool = False, dim: int = 32, side: int = 3, patch: int = 8) -> Fixed:
    """DOFA as torchgeo has it, or as its authors' pretraining left it."""
    maker, width = "patch_embed.weight_generator", 16
    shapes = vit(dim=dim, side=side, norm_name="norm" if pretraining else "fc_norm")
    layer = f"{maker}.transformer_encoder.layers.0"
    shapes |= {f"{layer}.self_attn.in_proj_weight": (3 * width, width), f"{layer}.self_attn.in_proj_bias": (3 * width,)}
    shapes |= linear(f"{layer}.self_attn.out_proj", width, width) | norm(f"{layer}.norm1", width) | norm(f"{layer}.norm2", width)
    shapes |= linear(f"{layer}.linear1", width, 2048) | linear(f"{layer}.linear2", 2048, width)
    shapes |= linear(f"{maker}.fc_weight", width, patch * patch * dim) | linear(f"{maker}.fc_bias", width, dim)
    shapes |= {f"{maker}.weight_tokens": (128, width), f"{maker}.bias_token": (1, width)}
    shapes |= linear("patch_embed.fclayer.w1", width, width) | linear("patch_embed.fclayer.w2", width, width)
    shapes |= {"mask_token": (1, 1, 16)} | linear("projector", dim, 16) if pretraining else linear("head", dim, 5)
    return tensors(shapes), {"num_heads": 4}


def channelvit(*, dim: int = 32, side: int = 3, patch: int = 8) -> Fixed:
    """ChannelViT with five channels."""
    shapes = vit(dim=dim, side=side) | {"patch_embed.proj.weight": (dim, 1, 1, patch, patch), "patch_embed.proj.bias": (dim,)}
    return tensors(shapes | {"patch_embed.channel_embed": (1, dim, 5, 1, 1)}), {"num_heads": 4}


def spectralearth(*, dim: int = 32, side: int = 3, patch: int = 4) -> Fixed:
    """SpectralEarth's SpecViT."""
    shapes = vit(dim=dim, side=side, prefix="vit_core.") | linear("vit_core.head", dim, 5)
    shapes |= {"vit_core.patch_embed.proj.weight": (dim, 128, patch, patch), "vit_core.patch_embed.proj.bias": (dim,)}
    count = {}
    for i, (inputs, outputs, kernel) in enumerate(((1, 32, 7), (32, 64, 7), (64, 128, 5))):
        at, after = f"spectral_adapter.{3 * i}", f"spectral_adapter.{3 * i + 1}"
        shapes |= {f"{at}.weight": (outputs, inputs, kernel, 1, 1), f"{at}.bias": (outputs,)} | norm(after, outputs)
        shapes |= {f"{after}.running_mean": (outputs,), f"{after}.running_var": (outputs,)}
        count[f"{after}.num_batches_tracked"] = torch.tensor(1)
    return tensors(shapes) | count, {"num_heads": 4}


def less(*, predecessor: bool = False, dim: int = 32, patch: int = 4) -> Fixed:
    """The encoder of LESS ViT, of two heads of 4 channels on bands and places."""
    shapes = dict.fromkeys(("cls_token", "spatial_cls_token", "channel_cls_token"), (1, 1, dim)) | norm("norm", dim)
    for kind in ("optical", "radar"):
        at = f"{kind}_patch_embed.proj"
        shapes |= {f"{at}.0.weight": (2 * dim, 1, 1, patch, patch), f"{at}.0.bias": (2 * dim,)}
        shapes |= {f"{at}.2.weight": (dim, 2 * dim, 1, 1, 1), f"{at}.2.bias": (dim,)}
    block = "blocks.0"
    outer, inner = (block, f"{block}.attn") if predecessor else (f"{block}.attn", f"{block}.attn.attn")
    for part in ("channel", "spatial"):
        pool, branch = f"{outer}.low_dim_pool.{part}", f"{inner}.{part}_branch"
        shapes |= linear(f"{pool}_linear", dim, 8) | norm(f"{pool}_norm", 8) | norm(f"{outer}.{part}_norm", 8)
        shapes |= linear(f"{pool}_pool.q", 8, 8) | linear(f"{pool}_pool.kv", 8, 16) | linear(f"{pool}_pool.proj", 8, 8)
        shapes |= linear(f"{branch}.qk", 8, 16) | linear(f"{branch}.v", 8, 8)
    shapes |= linear(f"{inner}.proj", dim, dim) | norm(f"{block}.norm1", dim) | norm(f"{block}.norm2", dim)
    return tensors(shapes | linear(f"{block}.mlp.fc1", dim, 64) | linear(f"{block}.mlp.fc2", 64, dim)), {}


SYSTEMS = {
    "SMARTIES": smarties(),
    "SMARTIES (classifier)": smarties(classifier=True),
    "SatMAE": satmae(),
    "SatMAE++": satmae(multiscale=True),
    "SatMAE++ (RGB)": satmae_rgb(),
    "SatMAE or SatMAE++ (classifier)": satmae_classifier(),
    "SpectralGPT": spectralgpt(),
    "SpectralGPT (classifier)": spectralgpt(classifier=True),
    "DOFA": dofa(),
    "ChannelViT": channelvit(),
    "SpectralEarth SpecViT": spectralearth(),
    "LESS ViT (encoder)": less(),
    "LESS ViT of GeospatialFM (encoder)": less(predecessor=True),
}
SIZES = {"SpectralGPT": 16, "SpectralGPT (classifier)": 16, "SpectralEarth SpecViT": 12}
BANDS = {"SatMAE": 10, "SatMAE++": 10, "SatMAE or SatMAE++ (classifier)": 10, "SpectralGPT": 12, "SpectralGPT (classifier)": 12}


def sentinel2(*names: str, size: int = 32) -> SensorBatch:
    bands = sensor("sentinel-2-l1c").bands
    wavelengths = torch.tensor([band.wavelength for band in bands if not names or band.name in names])
    values = torch.rand(2, len(wavelengths), size, size) * 0.4
    return SensorBatch(values, torch.ones_like(values, dtype=torch.bool), wavelengths, torch.full((2,), 10.0), "sentinel-2-l1c")


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_is_told_by_its_tensors(name):
    state, arguments = SYSTEMS[name]
    published = published_from(state, arguments=arguments)
    assert published.system.name == name
    assert not published.network.training
    assert not published.coverage.untouched
    assert "none missing, none unexpected" in str(published.coverage)
    assert published.size == (None if "LESS" in name else SIZES.get(name, 24))
    assert published.system.licence
    own, fresh = (published.encoder.state_dict(), published.untrained().state_dict())
    assert own.keys() == fresh.keys()


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_tensor_that_is_missing_or_too_many_is_an_error(name):
    state, arguments = SYSTEMS[name]
    lacking = {key: tensor for key, tensor in state.items() if not re.search(r"(^|\.)blocks\.0\.norm2\.bias$", key)}
    with pytest.raises(ValueError, match=r"looks like .*1 missing \((encoder\.)?blocks\.0\.norm2\.bias\)"):
        published_from(lacking, arguments=arguments)
    with pytest.raises(ValueError, match=r"1 unexpected \(extra"):
        published_from(state | {"extra": torch.zeros(1)}, arguments=arguments)
    with pytest.raises(ValueError, match=r"looks like|no known system"):
        published_from({k: t for k, t in state.items() if "pos_embed" not in k and "fc1" not in k}, arguments=arguments)


def test_query_key_and_value_apart_are_joined_only_together():
    state, arguments = spectralgpt()
    del state["blocks.0.attn.k.weight"]
    with pytest.raises(ValueError, match=r"2 unexpected \(blocks.0.*attn\.q|weights do not fit"):
        published_from(state, arguments=arguments)


def test_positions_that_are_no_fixed_waves_are_refused():
    state, arguments = satmae()
    state["pos_embed"] = state["pos_embed"] + 0.1
    with pytest.raises(ValueError, match="pos_embed is not the fixed waves"):
        published_from(state, arguments=arguments)


def test_heads_that_tensors_do_not_tell_are_asked_for():
    state, _ = satmae()
    with pytest.raises(ValueError, match="attention heads of 32 channels: give num_heads"):
        published_from(state)


def test_tensors_of_no_system_are_refused_with_those_that_are_known():
    with pytest.raises(UnknownSystemError, match=r"first tensor conv1\.weight.*SatMAE\+\+.*SpectralGPT"):
        published_from({"conv1.weight": torch.zeros(3, 3)})


@pytest.mark.parametrize(("suffix", "wrapped"), [(".pth", True), (".pt", False), (".safetensors", False)])
def test_every_kind_of_file_is_read_and_its_licence_told(tmp_path, caplog, suffix, wrapped):
    state, arguments = satmae(multiscale=True)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state, "epoch": 49} if wrapped else state, path)
    with caplog.at_level(logging.INFO, logger="geovit"):
        published = load_published(path, arguments=arguments)
    assert published.system.name == "SatMAE++"
    assert [r.getMessage() for r in caplog.records if "licence Apache-2.0" in r.getMessage() and "none missing" in r.getMessage()]


def test_a_file_that_is_cut_off_or_holds_code_is_refused(tmp_path):
    state, arguments = spectralgpt()
    path = tmp_path / "weights.pth"
    torch.save({"model": state}, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        load_published(path, arguments=arguments)
    torch.save({"model": state, "args": tensors}, path)
    with pytest.raises(ValueError, match="holds more than tensors"):
        load_published(path, arguments=arguments)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_published(tmp_path / "none.pth")


@pytest.mark.parametrize("name", BANDS)
def test_an_encoder_takes_its_own_bands_in_its_own_scale_from_an_image(name):
    state, arguments = SYSTEMS[name]
    published = published_from(state, arguments=arguments)
    scale, batch = published.normalization(), sentinel2(size=published.size)
    scaled = scale(batch)
    assert scaled.values.shape[1] == BANDS[name]
    assert 0 <= scaled.values.min() < scaled.values.max() <= 1
    places = published.encoder(scaled.values, scaled.wavelengths, scaled.gsd).places()
    assert places.shape == (2, published.size // 8, published.size // 8, published.encoder.dim)
    # Whatever order the bands come in.
    order = torch.randperm(len(batch.wavelengths))
    turned = SensorBatch(batch.values[:, order], batch.valid[:, order], batch.wavelengths[order], batch.gsd, batch.sensor)
    torch.testing.assert_close(scale(turned).values, scaled.values)


@pytest.mark.parametrize("name", ["SatMAE", "SpectralGPT"])
def test_an_image_without_one_of_the_bands_is_refused_by_its_name(name):
    state, arguments = SYSTEMS[name]
    scale = published_from(state, arguments=arguments).normalization()
    batch = sentinel2("B02", "B03", "B04", "B08", "B11", "B12")
    for ask in (lambda: scale(batch), lambda: scale.at(batch.wavelengths)):
        with pytest.raises(ValueError, match=r"among 49\d.* there is no .*B05 \(705 nm\), B06"):
            ask()


def test_satmae_puts_two_deviations_around_the_mean_in_0_to_1():
    state, arguments = SYSTEMS["SatMAE"]
    scale, batch = published_from(state, arguments=arguments).normalization(), sentinel2()
    batch.values[:, 1] = 0.118438246  # B02 at its mean
    batch.values[:, 2] = 9.0  # B03 beyond its range
    batch.valid[0, 3] = False
    values = scale(batch).values
    torch.testing.assert_close(values[:, 0], torch.full((2, 32, 32), 0.5))
    assert (values[:, 1] == 1).all()
    assert (values[0, 2] == 0).all()


def test_no_scale_is_guessed_for_bands_that_are_not_known():
    state, arguments = satmae(groups=(3, 2))
    with pytest.raises(ValueError, match="other groups of bands: which bands and scale it wants is not known"):
        published_from(state, arguments=arguments).normalization()
    state, arguments = satmae_rgb()
    with pytest.raises(ValueError, match="colour pictures of 8 bits"):
        published_from(state, arguments=arguments).normalization()


def test_a_published_file_opens_like_one_of_ours(tmp_path, caplog):
    state, _ = satmae_classifier(dim=192)  # of a size whose heads are known
    torch.save({"model": state}, tmp_path / "published.pth")
    with caplog.at_level(logging.INFO, logger="geovit"):
        model = open_model(tmp_path / "published.pth")
    assert model.facts["size"] == 24
    assert "CC-BY-NC-4.0 if it is SatMAE's" in caplog.text
    assert model.encode(sentinel2(size=24)).places().shape == (2, 3, 3, 192)
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_model(tmp_path / "none.safetensors")


def test_what_pretraining_left_in_dofas_files_is_told_and_left_out():
    state, arguments = dofa(pretraining=True)
    published = published_from(state, arguments=arguments)
    assert published.system.name == "DOFA"
    assert set(published.coverage.dropped) == {"mask_token", "projector.weight", "projector.bias", "norm.weight", "norm.bias"}
    assert published.coverage.untouched == ("norm.weight", "norm.bias")


@pytest.mark.parametrize("name", ["SMARTIES", "SMARTIES (classifier)", "DOFA"])
def test_a_system_of_any_bands_takes_those_of_any_optical_sensor(name, caplog):
    state, arguments = SYSTEMS[name]
    published = published_from(state, arguments=arguments)
    scale, batch = published.normalization(), sentinel2("B02", "B04", "B08", size=24)
    scaled = scale(batch)
    assert published.encoder(scaled.values, scaled.wavelengths, scaled.gsd).places().shape == (2, 3, 3, 32)
    ground = replace(batch, sensor="sentinel-2-l2a")
    other = replace(batch, wavelengths=batch.wavelengths + 0.5, sensor="landsat-8")
    with caplog.at_level(logging.INFO, logger="geovit"):
        torch.testing.assert_close(scale(other).values, scale(ground).values, atol=0.2, rtol=0)
        scale(other)
    assert len([record for record in caplog.records if "landsat-8 is scaled like sentinel-2" in record.getMessage()]) == 1


def test_smarties_scales_percentiles_and_knows_radar():
    scale = published_from(SYSTEMS["SMARTIES"][0], arguments=SYSTEMS["SMARTIES"][1]).normalization()
    values = torch.tensor([-3.4569002179548702, -9.905399040164635])[None, :, None, None].expand(1, 2, 4, 4)
    batch = SensorBatch(values, values < 0, torch.tensor([-1.0, -2.0]), torch.ones(1), "sentinel-1-rtc")
    vv, vh = scale(batch).values[0, :, 0, 0].tolist()
    assert vv == pytest.approx((1 - 0.6493455171585083) / 0.19030459225177765, rel=1e-5)
    assert vh == pytest.approx((1 - 0.6035320162773132) / 0.2288305163383484, rel=1e-5)


def test_dofa_has_no_scale_for_radar():
    state, arguments = SYSTEMS["DOFA"]
    scale = published_from(state, arguments=arguments).normalization()
    values = -10 * torch.ones(1, 1, 8, 8)
    with pytest.raises(ValueError, match="trained on optical bands only"):
        scale(SensorBatch(values, values < 0, torch.tensor([-1.0]), torch.ones(1), "sentinel-1-rtc"))


@pytest.mark.parametrize("name", ["ChannelViT", "SpectralEarth SpecViT", "LESS ViT (encoder)"])
def test_a_system_whose_scale_is_not_published_says_what_is_missing(name):
    state, arguments = SYSTEMS[name]
    with pytest.raises(ValueError, match=r"lie with (its|that) data set alone|do not tell which bands"):
        published_from(state, arguments=arguments).normalization()


def test_a_scene_is_embedded_with_nothing_but_the_published_file(tmp_path):
    state, _ = satmae_classifier(dim=192)
    torch.save({"model": state}, tmp_path / "published.pth")
    product = sensor("sentinel-2-l2a")
    values = np.random.default_rng(0).integers(500, 4000, (len(product.bands), 40, 56)).astype(np.uint16)
    profile = {"driver": "GTiff", "height": 40, "width": 56, "count": len(values), "dtype": "uint16", "crs": "EPSG:32633"}
    with rasterio.open(tmp_path / "scene.tif", "w", **profile, transform=Affine(10, 0, 5e5, 0, -10, 5e6)) as file:
        file.write(values)
        file.descriptions = tuple(band.name for band in product.bands)
    tiling = Tiling(halo=0)
    embedding = embed(tmp_path / "scene.tif", tmp_path / "published.pth", sensor=product.name, tiling=tiling, precision="fp32")
    assert embedding.values.shape == (5, 7, 192)
    assert np.isfinite(embedding.values).all()
    # Tiles are of the size that the model was trained on.
    model = open_model(tmp_path / "published.pth")
    bands = torch.tensor([band.wavelength for band in product.bands])
    first = torch.from_numpy(values[None, :, :24, :24].astype(np.float32)) / 1e4
    batch = SensorBatch(first, first > 0, bands, torch.tensor([10.0]), product.name)
    with torch.no_grad():
        places = model.encode(batch).places()
    np.testing.assert_allclose(embedding.values[:3, :3], places[0], atol=1e-4)
