"""The table of networks: every one of them builds by its name, takes any size, and tells what it does not understand."""

import json

import pytest
import torch

from geovit.apps.medical.model import new_segmenter
from geovit.apps.medical.networks import NETWORKS, Needs, NetworkConfig, build_network, needs_of
from geovit.apps.medical.plan import Channel, Plan, Target

# Small versions, so that the test is quick; the defaults are those of the table.
SMALL = {
    "swin_unetr": {"feature_size": 12},
    "vssm_unet": {"features": [8, 12, 16]},
    "monai_swin_unetr": {"feature_size": 12},
    "monai_unet": {"channels": [4, 8, 8, 8, 8]},
    "monai_dynunet": {"filters": [4, 8, 8, 8, 8]},
    "monai_segresnet": {"init_filters": 8},
    "monai_segresnet_ds": {"init_filters": 4},
    "monai_unetr": {"hidden_size": 24, "mlp_dim": 24, "num_heads": 2, "feature_size": 4, "img_size": 32},
    "monai_attention_unet": {"channels": [4, 8, 8, 8, 8]},
    "monai_basic_unet": {"features": [4, 4, 8, 8, 8, 4]},
    "monai_unet_plus_plus": {"features": [4, 4, 8, 8, 8, 4]},
    "monai_mednext": {"init_filters": 4, "norm_type": "group"},
}
HEAVY = ("monai_vnet", "monai_flexible_unet", "monai_highresnet")  # their widths cannot be chosen


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in HEAVY and not name.endswith("swin_unetr")])
def test_every_network_takes_any_size_and_trains(name, axes):
    torch.manual_seed(0)
    config = NetworkConfig(name=name, arguments=SMALL[name])
    network = build_network(config, in_channels=2, out_channels=3, axes=axes).train()
    size = (19, 30, 17)[:axes]
    x = torch.randn(1, 2, *size)
    y = network(x)
    assert y.shape == (1, 3, *size)
    y.square().mean().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in network.parameters())
    assert any(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("name", [*HEAVY, "swin_unetr", "monai_swin_unetr"])
def test_large_networks_take_any_size(name, axes):
    config = NetworkConfig(name=name, arguments=SMALL.get(name, {}))
    network = build_network(config, in_channels=2, out_channels=3, axes=axes).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 2, *(9, 11, 10)[:axes])).shape == (1, 3, *(9, 11, 10)[:axes])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_defaults(name):
    needs = needs_of(NetworkConfig(name=name))
    assert needs.multiple >= 1
    built = build_network(NetworkConfig(name=name), in_channels=1, out_channels=2)
    assert sum(p.numel() for p in built.parameters()) > 100_000


def test_filling_up_changes_nothing_where_sizes_fit():
    config = NetworkConfig(name="monai_basic_unet", arguments=SMALL["monai_basic_unet"])
    network = build_network(config, in_channels=1, out_channels=2).eval()
    x = torch.randn(1, 1, 32, 16, 16)
    with torch.inference_mode():
        assert torch.equal(network(x), network.network(x))


def test_needs_tell_the_size_that_is_computed():
    assert Needs(multiple=32, coarsest=2).padded((20, 20, 20)) == (32, 32, 64)
    assert Needs(multiple=32, coarsest=2).padded((33, 20, 20)) == (64, 32, 32)
    assert Needs(multiple=1).padded((7, 5)) == (7, 5)
    assert needs_of(NetworkConfig(name="monai_segresnet")).multiple == 8
    assert needs_of(NetworkConfig(name="monai_segresnet", arguments={"blocks_down": [1, 2, 2, 4, 4]})).multiple == 16
    assert needs_of(NetworkConfig(name="monai_dynunet")).multiple == 16
    assert needs_of(NetworkConfig(name="vssm_unet", arguments={"features": [8, 16, 32]})).multiple == 4


def test_a_network_of_one_size_has_that_of_the_plan_and_refuses_larger_ones():
    plan = Plan(channels=(Channel(name="CT"),), targets=(Target(name="liver", values=(1,), output=1),), roi=(32, 16, 16))
    config = NetworkConfig(name="monai_unetr", arguments={k: v for k, v in SMALL["monai_unetr"].items() if k != "img_size"})
    network = new_segmenter(config, plan).network.eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 1, 20, 16, 9)).shape == (1, 2, 20, 16, 9)
    with pytest.raises(ValueError, match=r"made for images of \[32, 16, 16\] voxels, got \[33, 16, 16\]"):
        network(torch.randn(1, 1, 33, 16, 16))


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (NetworkConfig(name="swin_untr"), "unknown network 'swin_untr': did you mean swin_unetr"),
        (NetworkConfig(arguments={"feature_sise": 24}), "unknown argument 'feature_sise': did you mean feature_size"),
        (NetworkConfig(arguments={"spatial_dims": 2}), "spatial_dims follows from the plan"),
        (NetworkConfig(name="monai_dynunet", arguments={"deep_supervision": True}), "deep_supervision is always False"),
        (NetworkConfig(name="monai_segresnet", arguments={"act": torch.nn.ReLU}), "allowed is what JSON can hold"),
        (NetworkConfig(arguments={"feature_size": 25}), "its arguments were refused: .*12"),
        (NetworkConfig(name="monai_unet", arguments={"channels": [4]}), "its arguments were refused"),
        (NetworkConfig(name="monai_vnet", arguments={}), "its arguments were refused"),
    ],
)
def test_what_is_not_understood_is_told_in_one_line(config, match):
    with pytest.raises(ValueError, match=match) as caught:
        build_network(config, in_channels=3, out_channels=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_configuration_survives_json(name):
    config = NetworkConfig(name=name, arguments=SMALL.get(name, {}))
    again = NetworkConfig(**json.loads(json.dumps(config.to_dict())))
    kind = NETWORKS[name]
    assert kind.complete(name, again.arguments, 3, None) == kind.complete(name, config.arguments, 3, None)
