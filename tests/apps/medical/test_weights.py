"""Checkpoints of Swin UNETR: every layout, both ways, all tensors accounted for, and the merging order never assumed."""

import json
import logging
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from monai.networks.nets import SwinUNETR as Monai
from monai.networks.nets.swin_unetr import PatchMerging, PatchMergingV2
from safetensors.torch import load_file, save_file

from geovit.apps.medical.model import load_segmenter, save_segmenter
from geovit.apps.medical.models import open_segmenter, plan_names, read_plan
from geovit.apps.medical.networks import NetworkConfig, build_network
from geovit.apps.medical.swin_unetr import SwinUNETR
from geovit.apps.medical.weights import (
    legacy_merging,
    load_encoder,
    load_swin_unetr,
    read_swin_checkpoint,
    save_for_monai,
)


def monai(**options):
    torch.manual_seed(0)
    return Monai(**{"in_channels": 1, "out_channels": 3, "feature_size": 12, **options}).eval()


class Merging14(PatchMergingV2):
    """The eight parts that MONAI took before 1.5."""

    def forward(self, x):
        parts = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1)]
        return self.reduction(self.norm(torch.cat([x[:, i::2, j::2, k::2] for i, j, k in parts], -1)))


@pytest.fixture(scope="module")
def reference():
    return monai()


@pytest.fixture(scope="module")
def image():
    return torch.randn(1, 1, 64, 32, 32, generator=torch.Generator().manual_seed(0))


def swinvit(network):
    """The names of model_swinvit.pt, with the heads of its tasks."""
    state = {f"module.{k.removeprefix('swinViT.')}": v for k, v in network.state_dict().items() if k.startswith("swinViT.")}
    state = {k.replace("linear1", "fc1").replace("linear2", "fc2"): v for k, v in state.items()}
    heads = ("module.rotation_head.weight", "module.contrastive_head.bias", "module.conv.0.weight", "module.norm.weight")
    return state | {name: torch.zeros(2) for name in heads}


def autoencoder(network):
    """The names of ssl_pretrained_weights.pth: an encoder under its own names, and a decoder under MONAI's."""
    state = {}
    for key, value in network.state_dict().items():
        name = key
        if key.startswith("swinViT."):
            name = "encoder." + key.removeprefix("swinViT.")
            name = re.sub(r"^encoder\.(layers\d\.0)", r"encoder.\1.0", name)
        state[name] = value
    return state | {
        "encoder.mask_token": torch.zeros(1),
        "encoder.norm.weight": torch.ones(2),
        "encoder.norm.bias": torch.ones(2),
    }


WRAPPERS = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"state_dict": s},
    "model": lambda s: {"model": s, "iteration": 3},
    "network": lambda s: {"network": s},
    "module": lambda s: {f"module.{k}": v for k, v in s.items()},
    "Lightning": lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "epoch": 2},
    "research": lambda s: {
        "epoch": 4999,
        "best_acc": np.float64(0.82),
        "state_dict": s,
        "optimizer": {"param_groups": [{"lr": 0.1}]},
    },
    "research, distributed": lambda s: {
        "epoch": 1,
        "best_acc": np.float32(0.1),
        "state_dict": {f"module.{k}": v for k, v in s.items()},
    },
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapping_of_a_monai_state_dict_is_loaded_whole(tmp_path, reference, wrapper):
    state = reference.state_dict()
    torch.save(WRAPPERS[wrapper](state), tmp_path / "model.pt")
    loaded = load_swin_unetr(tmp_path / "model.pt", merging_order="fixed")
    assert loaded.network.state_dict().keys() == state.keys()
    assert all(torch.equal(loaded.network.state_dict()[key], value) for key, value in state.items())
    assert loaded.coverage.elements == sum(p.numel() for p in reference.parameters()) == 4_078_220 - 11 * 13
    assert len(loaded.coverage.verified) == 8
    assert loaded.coverage.dropped == loaded.coverage.untouched == ()
    assert not loaded.network.training


OPTIONS = {
    "v2": {"use_v2": True},
    "two axes": {"spatial_dims": 2, "in_channels": 3},
    "two axes, v2": {"spatial_dims": 2, "use_v2": True},
    "wide": {"feature_size": 24, "out_channels": 5, "in_channels": 4},
    "deep": {"depths": (1, 2, 3, 1), "num_heads": (2, 4, 6, 12)},
    "window of 4": {"window_size": 4},
    "windows unlike": {"window_size": (7, 5, 3)},
    "windows turned": {"window_size": (3, 5, 7)},
    "no bias": {"qkv_bias": False},
    "narrow": {"mlp_ratio": 1.5},
    "normed patches": {"patch_norm": True},
    "affine": {"norm_name": ("instance", {"affine": True})},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_arguments_follow_from_shapes(name):
    given = OPTIONS[name]
    loaded = load_swin_unetr(monai(**given).state_dict(), merging_order="legacy")
    wanted = {
        "in_channels": 1,
        "out_channels": 3,
        "feature_size": 12,
        "window_size": 7,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        **given,
    }
    found = dict(loaded.checkpoint.arguments)
    axes = found["spatial_dims"]
    wanted["window_size"] = list(np.broadcast_to(wanted["window_size"], axes))
    for key, value in wanted.items():
        assert found[key] == (list(value) if key in ("depths", "num_heads") else value), key
    assert found.get("merging_order") == ("legacy" if axes == 3 else None)


# Parameters as counted for the published sizes.
COUNTS = [
    (4_078_220, {"feature_size": 12, "out_channels": 14}),
    (15_703_304, {"feature_size": 24, "out_channels": 14}),
    (62_187_296, {"feature_size": 48, "out_channels": 14}),
    (62_191_941, {"feature_size": 48, "in_channels": 4, "out_channels": 3}),
    (72_762_656, {"feature_size": 48, "out_channels": 14, "use_v2": True}),
]


@pytest.mark.parametrize(("count", "options"), COUNTS)
def test_the_published_sizes_are_recognised_from_their_tensors(count, options):
    with torch.device("meta"):
        state = SwinUNETR(**{"in_channels": 1, **options}).state_dict()
    index = SwinUNETR(in_channels=1, out_channels=1, feature_size=12).state_dict()
    state = {k: index[k] if k.endswith("relative_position_index") else v for k, v in state.items()}
    arguments = dict(read_swin_checkpoint(state, merging_order="legacy").arguments)
    with torch.device("meta"):
        built = SwinUNETR(**arguments)
    assert sum(p.numel() for p in built.parameters()) == count
    assert {key: arguments[key] for key in options} == options


def test_names_before_monai_0_9_are_dropped_and_tell_the_order(reference):
    old = {"encoder2.layer.conv3.conv.weight": torch.zeros(12, 12, 1, 1, 1), "swinViT.norm.bias": torch.zeros(96)}
    loaded = load_swin_unetr({"state_dict": reference.state_dict() | old})
    assert loaded.network.merging_order == "legacy"
    assert "0.9" in loaded.checkpoint.because
    assert set(loaded.coverage.dropped) == set(old)


def test_an_unknown_merging_order_is_asked_for(tmp_path, reference):
    for source in (reference.state_dict(), tmp_path / "model.pt", tmp_path / "model.safetensors"):
        if source == tmp_path / "model.pt":
            torch.save(reference.state_dict(), source)
        elif source == tmp_path / "model.safetensors":
            save_file(reference.state_dict(), source)
        with pytest.raises(
            ValueError, match="does not tell in which order.*'legacy' for weights trained with MONAI before 1.5.*'fixed'"
        ) as caught:
            load_swin_unetr(source)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="merging_order is 'old', allowed are 'legacy'"):
        load_swin_unetr(reference.state_dict(), merging_order="old")


def without_byteorder(source, target):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            if not entry.filename.endswith("byteorder"):
                new.writestr(entry, old.read(entry))


def test_a_file_of_old_torch_is_of_old_monai(tmp_path, reference, caplog):
    torch.save({"state_dict": reference.state_dict(), "best_acc": 0.5}, tmp_path / "new.pt")
    without_byteorder(tmp_path / "new.pt", tmp_path / "old.pt")
    caplog.set_level(logging.INFO)
    assert load_swin_unetr(tmp_path / "old.pt").network.merging_order == "legacy"
    assert "torch before 2.1" in caplog.text
    caplog.clear()
    assert load_swin_unetr(tmp_path / "old.pt", merging_order="fixed").network.merging_order == "fixed"
    assert "as given, though this looks like 'legacy'" in caplog.text


def test_legacy_is_monai_1_4_and_fixed_is_the_installed_monai(reference, image):
    state = reference.state_dict()
    old = monai(downsample=Merging14)
    old.load_state_dict(state)
    with torch.inference_mode():
        fixed, legacy = (load_swin_unetr(state, merging_order=order).network(image) for order in ("fixed", "legacy"))
        torch.testing.assert_close(fixed, reference(image), atol=1e-4, rtol=0)
        torch.testing.assert_close(legacy, old(image), atol=1e-4, rtol=0)
    assert float((fixed - legacy).abs().max()) > 0.01


def test_installed_monai_computes_the_legacy_order_with_our_merging(reference, image):
    newest = monai(downsample=legacy_merging)
    newest.load_state_dict(reference.state_dict())
    old = monai(downsample=Merging14)
    old.load_state_dict(reference.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(newest(image), old(image), atol=1e-5, rtol=0)
    tokens = torch.randn(1, 4, 6, 2, 12)
    ours, theirs = legacy_merging(12), PatchMerging(12)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert ours(tokens).shape == theirs(tokens).shape


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("order", ["legacy", "fixed"])
def test_ours_loads_in_monai_and_comes_back(tmp_path, caplog, suffix, order):
    torch.manual_seed(1)
    ours = SwinUNETR(2, 4, feature_size=12, normalize=False, merging_order=order)
    path = tmp_path / f"model{suffix}"
    save_for_monai(path, ours)
    assert ("legacy_merging" in caplog.text) == (order == "legacy")
    state = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)["state_dict"]
    monai(in_channels=2, out_channels=4).load_state_dict(state, strict=True)
    again = load_swin_unetr(path).network
    assert again.merging_order == order
    assert again.normalize is False
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in ours.state_dict().items())


def test_monais_own_networks_are_written_without_what_is_around_them(tmp_path):
    network = build_network(NetworkConfig(name="monai_swin_unetr", arguments={"feature_size": 12}), in_channels=1, out_channels=3)
    save_for_monai(tmp_path / "a.pt", network)
    monai().load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True)["state_dict"], strict=True)


def test_what_monai_does_not_have_is_not_written(tmp_path):
    scans = build_network(NetworkConfig(name="vssm_unet", arguments={"features": [4, 8]}), in_channels=1, out_channels=2)
    with pytest.raises(ValueError, match="MONAI has no VSSMUNet"):
        save_for_monai(tmp_path / "a.pt", scans)
    changed = SwinUNETR(1, 2, feature_size=12)
    changed.register_buffer("adapter", torch.zeros(1))
    with pytest.raises(ValueError, match="merge its adapters"):
        save_for_monai(tmp_path / "a.pt", changed)
    with pytest.raises(ValueError, match=r"written as \.pt or \.safetensors"):
        save_for_monai(tmp_path / "a.onnx", changed)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        save_for_monai(tmp_path / "absent" / "a.pt", changed)
    assert list(tmp_path.iterdir()) == []


def fresh(**options):
    torch.manual_seed(2)
    return SwinUNETR(**{"in_channels": 1, "out_channels": 2, "feature_size": 12, "merging_order": "legacy", **options})


ENCODERS = {
    "model_swinvit.pt": swinvit,
    "names of MONAI": lambda n: (
        {f"module.{k}": v for k, v in n.state_dict().items() if k.startswith("swinViT.")}
        | {"module.rotation_head.weight": torch.zeros(2), "module.conv.3.bias": torch.zeros(2)}
    ),
    "names of 2022": lambda n: {
        k.replace("swinViT", "swin_vit"): v for k, v in n.state_dict().items() if k.startswith("swinViT.")
    },
}


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_loaded_and_the_decoder_told_to_be_as_it_was(tmp_path, reference, name):
    torch.save({"epoch": 1, "state_dict": ENCODERS[name](reference)}, tmp_path / "encoder.pt")
    network = fresh()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    order = None if name == "model_swinvit.pt" else "legacy"
    coverage = load_encoder(network, tmp_path / "encoder.pt", merging_order=order)
    for key, value in network.state_dict().items():
        assert torch.equal(value, (reference.state_dict() if key.startswith("swinViT.") else before)[key])
    assert set(coverage.untouched) == {key for key in before if not key.startswith("swinViT.")}
    assert coverage.tensors == 118
    assert len(coverage.verified) == 8
    assert "left as they were: 33 tensors" in str(coverage)
    assert ("rotation_head.weight" in coverage.dropped) == (name != "names of 2022")


def test_model_swinvit_gives_what_monais_load_from_gives(reference):
    theirs = monai(out_channels=2)
    theirs.load_from({"state_dict": swinvit(reference)})
    ours = fresh()
    load_encoder(ours, {"state_dict": swinvit(reference)})
    for key, value in theirs.state_dict().items():
        if key.startswith("swinViT."):
            assert torch.equal(value, ours.state_dict()[key])


def test_autoencoders_give_all_but_the_head(reference):
    network = fresh()
    head = network.out.conv.conv.weight.clone()
    coverage = load_encoder(network, {"model": autoencoder(reference)})
    assert set(coverage.untouched) == {"out.conv.conv.weight", "out.conv.conv.bias"}
    assert torch.equal(network.out.conv.conv.weight, head)
    for key, value in reference.state_dict().items():
        if not key.startswith("out."):
            assert torch.equal(value, network.state_dict()[key])
    assert {"encoder.mask_token", "encoder.norm.weight", "out.conv.conv.bias"} <= set(coverage.dropped)


def test_a_whole_network_starts_another_of_other_classes(reference):
    network = fresh(merging_order="fixed")
    coverage = load_encoder(network, reference.state_dict(), merging_order="fixed")
    assert set(coverage.untouched) == {"out.conv.conv.weight", "out.conv.conv.bias"}
    assert load_encoder(fresh(out_channels=3), reference.state_dict(), merging_order="legacy").untouched == ()


def test_an_encoder_of_another_order_is_refused(reference):
    with pytest.raises(ValueError, match="merging_order 'legacy' .*the network has 'fixed'"):
        load_encoder(fresh(merging_order="fixed"), {"state_dict": swinvit(reference)})


def test_an_encoder_alone_does_not_segment(reference):
    with pytest.raises(ValueError, match=r"weights of pre-training .model_swinvit.pt., which do not segment"):
        load_swin_unetr({"state_dict": swinvit(reference)})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop("decoder3.conv_block.conv1.conv.weight"), "1 missing .decoder3.conv_block.conv1.conv.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (lambda s: s.update({"decoder1.conv_block.conv2.conv.weight": torch.zeros(1)}), r"1 of another shape .*\[1\] instead of"),
        (lambda s: s["swinViT.layers2.0.blocks.1.attn.relative_position_index"].add_(1), "is not that of windows of"),
        (lambda s: s.pop("swinViT.layers1.0.blocks.0.attn.relative_position_bias_table"), "no whole Swin UNETR"),
        (lambda s: s.pop("swinViT.patch_embed.proj.weight"), "is no Swin UNETR: no tensor is named"),
    ],
)
def test_nothing_missing_or_unexpected_is_passed_over(reference, change, match):
    state = {key: value.clone() for key, value in reference.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=match) as caught:
        load_swin_unetr(state, merging_order="fixed")
    assert "\n" not in str(caught.value)


def test_safetensors_without_buffers_load_too(tmp_path, reference):
    state = {key: value for key, value in reference.state_dict().items() if not key.endswith("index")}
    save_file(state, tmp_path / "a.safetensors")
    loaded = load_swin_unetr(tmp_path / "a.safetensors", merging_order="fixed")
    assert loaded.coverage.verified == ()
    assert loaded.coverage.tensors == len(state)


class Code:
    def __reduce__(self):
        return os.mkdir, ("code_was_run",)


@pytest.mark.parametrize("format_", ["torch", "pickle"])
def test_a_pickle_with_code_is_refused_in_one_line(tmp_path, monkeypatch, format_):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pt"
    if format_ == "torch":
        torch.save({"state_dict": {"a": torch.zeros(1)}, "args": Code()}, path)
    else:
        path.write_bytes(pickle.dumps({"state_dict": Code()}, protocol=2))
    with pytest.raises(ValueError, match="not loaded") as caught:
        open_segmenter(path, "btcv", "legacy")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "code_was_run").exists()


def test_a_truncated_file_is_told(tmp_path, reference):
    torch.save(reference.state_dict(), tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "b.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="not a whole checkpoint|or is no checkpoint"):
        load_swin_unetr(tmp_path / "b.pt", merging_order="legacy")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_swin_unetr(tmp_path / "absent.pt")


def test_a_checkpoint_with_a_plan_is_a_segmenter_that_is_saved_and_read(tmp_path, image):
    torch.save(monai(out_channels=14).state_dict(), tmp_path / "model.pt")
    segmenter = open_segmenter(tmp_path / "model.pt", "btcv", "legacy")
    assert [target.name for target in segmenter.plan.targets][:3] == ["spleen", "right kidney", "left kidney"]
    assert segmenter.plan.outputs == 14
    assert segmenter.facts["source"] == "model.pt"
    save_segmenter(tmp_path / "model.safetensors", segmenter)
    again = open_segmenter(tmp_path / "model.safetensors")
    assert again.network.merging_order == load_segmenter(tmp_path / "model.safetensors").network.merging_order == "legacy"
    with torch.inference_mode():
        torch.testing.assert_close(again.network(image), segmenter.network(image))
    assert load_swin_unetr(tmp_path / "model.safetensors").network.merging_order == "legacy"
    with pytest.raises(ValueError, match="tells its plan and merging order: give neither"):
        open_segmenter(tmp_path / "model.safetensors", "btcv")


def test_outputs_of_brats_are_brought_into_the_order_of_painting(tmp_path):
    network = monai(in_channels=4)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "model.pt")
    segmenter = open_segmenter(tmp_path / "model.pt", "brats21", "fixed")
    assert [target.name for target in segmenter.plan.targets] == ["whole tumour", "tumour core", "enhancing tumour"]
    assert [channel.name for channel in segmenter.plan.channels] == ["FLAIR", "T1ce", "T1", "T2"]
    x = torch.randn(1, 4, 64, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(segmenter.network(x), network(x)[:, [1, 0, 2]], atol=1e-4, rtol=0)


def test_a_checkpoint_without_a_plan_names_those_that_would_fit(tmp_path):
    torch.save(monai(out_channels=14).state_dict(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="tells no plan.*btcv would fit"):
        open_segmenter(tmp_path / "model.pt", merging_order="legacy")
    with pytest.raises(ValueError, match="has 1 channels, 14 outputs and 3 axes, the plan 4 channels, 3 outputs and 3 axes"):
        open_segmenter(tmp_path / "model.pt", "brats21", "legacy")
    with pytest.raises(FileNotFoundError, match="no plan btvc: expected a file, or one of brats21, btcv"):
        open_segmenter(tmp_path / "model.pt", "btvc", "legacy")


def test_a_plan_of_ones_own_is_read_from_a_file(tmp_path):
    named = read_plan("btcv")
    (tmp_path / "own.yaml").write_text("plan: 3\n")
    with pytest.raises(ValueError, match="own.yaml: this is no plan"):
        read_plan(tmp_path / "own.yaml")
    (tmp_path / "own.json").write_text(json.dumps(named.plan.to_dict()))
    assert read_plan(tmp_path / "own.json").plan == named.plan
    assert plan_names() == ["brats21", "btcv"]
