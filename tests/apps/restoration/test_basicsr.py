"""Our networks in BasicSR: names and checkpoints as published; where basicsr is installed, its own training runs."""

import copy
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from geovit.apps.restoration.basicsr import network_classes, register
from geovit.apps.restoration.basicsr.loading import import_basicsr
from geovit.apps.restoration.basicsr.models import TiledTest
from geovit.apps.restoration.resize import matlab_resize
from geovit.apps.restoration.weights import ARCHITECTURES, load_restorer

with_basicsr = pytest.mark.skipif(find_spec("basicsr") is None, reason="basicsr, an extra, is not installed")

# The arguments of the official option file of CFSR, but fewer and smaller blocks.
CFSR = {
    "upscale": 2, "in_chans": 3, "dw_size": 9, "small_kernel": 3, "img_range": 1.0, "depths": [1, 2], "embed_dim": 16,
    "mlp_ratio": 2, "upsampler": "pixelshuffledirect",
}  # fmt: skip


class FakeRegistry(dict):
    """BasicSR's: a second object of one name is refused."""

    def register(self, obj):
        assert obj.__name__ not in self
        self[obj.__name__] = obj


@pytest.fixture
def registry():
    registry = FakeRegistry()
    register(registry)
    return registry


def test_every_architecture_is_registered_once_under_its_official_name(registry):
    assert set(registry) == {f"Geovit{architecture.official}" for architecture in ARCHITECTURES}
    assert all(name.isidentifier() for name in registry)
    register(registry)
    assert len(registry) == len(ARCHITECTURES) == len(network_classes())


def test_state_dicts_are_the_official_ones(registry, data_dir):
    path = data_dir / "checkpoints" / "cfsr" / "CFSR_x2.pth"
    published = torch.load(path, weights_only=True)
    published = published.get("params", published)
    network = registry["GeovitCFSR"](**{**CFSR, "depths": [6, 6], "embed_dim": 48})
    network.load_state_dict(published, strict=True)
    saved = network.state_dict()
    assert saved.keys() == published.keys()
    assert all(torch.equal(saved[name], tensor) and saved[name].shape == tensor.shape for name, tensor in published.items())
    x = torch.rand(1, 3, 9, 14)
    with torch.inference_mode():
        assert torch.equal(network.eval()(x), load_restorer(path).network(x))


def test_state_dicts_pass_through_copies_and_holders(registry):
    network = registry["GeovitCFSR"](**CFSR)
    state = network.state_dict()
    twin = copy.deepcopy(network)
    for parameter in twin.parameters():
        nn.init.normal_(parameter)
    assert twin.state_dict().keys() == state.keys()
    network.load_state_dict(twin.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True))
    holder = nn.ModuleDict({"module": twin})
    assert holder.state_dict().keys() == {f"module.{name}" for name in state}
    holder.load_state_dict({f"module.{name}": tensor for name, tensor in state.items()})
    assert all(torch.equal(tensor, state[name]) for name, tensor in twin.state_dict().items())


def test_what_does_not_fit_is_told_and_without_strictness_left_out(registry):
    network = registry["GeovitCFSR"](**CFSR)
    state = network.state_dict()
    wrong = {**state, "conv_fist.weight": state["conv_first.weight"]}
    del wrong["conv_first.weight"]
    with pytest.raises(RuntimeError, match="conv_fist.weight"):
        network.load_state_dict(wrong)
    found = network.load_state_dict(wrong, strict=False)
    assert (found.missing_keys, found.unexpected_keys) == (["network.conv_first.weight"], ["conv_fist.weight"])
    with pytest.raises(ValueError, match="unknown argument window_size"):
        registry["GeovitCFSR"](**CFSR, window_size=8)


class FakeModel:
    """What is used of BasicSR's SRModel."""

    device = torch.device("cpu")

    def __init__(self, network, opt, x):
        self.net_g, self.opt, self.lq = network, opt, x

    def get_bare_model(self, network):
        return network

    def test(self):
        with torch.inference_mode():
            self.output = self.net_g.eval()(self.lq)


def test_models_of_option_files_restore_in_tiles_where_these_ask_for_it(registry):
    model_type = type("HATModel", (TiledTest, FakeModel), {})
    network, x = registry["GeovitCFSR"](**CFSR), torch.rand(2, 3, 70, 50)
    whole, tiled = (model_type(network, opt, x) for opt in ({}, {"tile": {"tile_size": 24, "tile_pad": 20}}))
    whole.test()
    network.train()
    tiled.test()
    assert network.training
    torch.testing.assert_close(tiled.output, whole.output)
    with pytest.raises(ValueError, match="tile is for networks of geovit, not for Identity"):
        model_type(nn.Identity(), {"tile": {"tile_size": 24, "tile_pad": 20}}, x).test()


def test_without_basicsr_one_line_tells(monkeypatch):
    monkeypatch.setattr("geovit.apps.restoration.basicsr.loading.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"basicsr is not installed: pip install 'geovit\[basicsr\]'"):
        import_basicsr()


@with_basicsr
@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")  # BasicSR's own code
def test_its_own_swinir_and_ours_exchange_checkpoints(registry):
    import_basicsr()
    from basicsr.archs.swinir_arch import SwinIR

    arguments = {
        "upscale": 2, "img_size": 24, "window_size": 8, "depths": [2], "embed_dim": 12, "num_heads": [2], "mlp_ratio": 2,
        "upsampler": "pixelshuffle", "resi_connection": "1conv",
    }  # fmt: skip
    official, ours = SwinIR(**arguments).eval(), registry["GeovitSwinIR"](**arguments).eval()
    assert ours.state_dict().keys() == official.state_dict().keys(), "buffers that follow from sizes among them"
    ours.load_state_dict(official.state_dict(), strict=True)
    x = torch.rand(1, 3, 24, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), official(x))
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.02)
    official.load_state_dict(ours.state_dict(), strict=True)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), official(x))


@pytest.fixture
def options(tmp_path):
    """An option file as for the official network, and generated images."""
    y, x = np.mgrid[:48, :64]
    for folder in ("high", "low"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        wave = np.sin(x / (3 + number)) * np.cos(y / 4) * 100 + 120
        high = np.stack([wave, wave[::-1], (5 * x + number * y) % 256], -1).astype(np.uint8)
        Image.fromarray(high).save(tmp_path / "high" / f"{number}.png")
        Image.fromarray(matlab_resize(high, 0.5)).save(tmp_path / "low" / f"{number}x2.png")
    data = {
        "type": "PairedImageDataset", "dataroot_gt": str(tmp_path / "high"), "dataroot_lq": str(tmp_path / "low"),
        "filename_tmpl": "{}x2", "io_backend": {"type": "disk"},
    }  # fmt: skip
    loader = {
        "gt_size": 32, "use_hflip": True, "use_rot": True, "use_shuffle": True, "num_worker_per_gpu": 0, "batch_size_per_gpu": 2,
        "dataset_enlarge_ratio": 10, "prefetch_mode": None,
    }  # fmt: skip
    metrics = {"psnr": {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True, "better": "higher"}}
    return {
        "name": "tiny", "model_type": "HATModel", "scale": 2, "num_gpu": 0, "manual_seed": 0,
        "datasets": {"train": {"name": "train", **data, **loader}, "val_1": {"name": "waves", **data}},
        "network_g": {"type": "GeovitCFSR", **CFSR},
        "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
        "train": {
            "ema_decay": 0.9, "optim_g": {"type": "Adam", "lr": 2e-3, "weight_decay": 0, "betas": [0.9, 0.99]},
            "scheduler": {"type": "MultiStepLR", "milestones": [6], "gamma": 0.5}, "total_iter": 6, "warmup_iter": -1,
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        },
        "val": {"val_freq": 3, "save_img": True, "suffix": None, "pbar": False, "metrics": metrics},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 3, "use_tb_logger": False, "wandb": {"project": None}},
    }  # fmt: skip


def run(options, folder, *arguments):
    (folder / "options.yml").write_text(yaml.safe_dump(options), encoding="utf-8")
    command = [sys.executable, "-m", "geovit.apps.restoration.basicsr", "-opt", "options.yml", *arguments]
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@with_basicsr
@pytest.mark.slow
def test_basicsr_trains_validates_resumes_and_tests(options, tmp_path):
    printed = run(options, tmp_path)
    assert "Network [GeovitCFSR] is created" in printed
    models = tmp_path / "experiments" / "tiny" / "models"
    saved = torch.load(models / "net_g_latest.pth", weights_only=True)
    assert saved.keys() == {"params", "params_ema"}
    assert "layers.0.blocks.0.attn.a.2.lkb_reparam.weight" in saved["params"], "the official layout"
    assert not torch.equal(saved["params"]["conv_first.weight"], saved["params_ema"]["conv_first.weight"])
    network = load_restorer(models / "net_g_latest.pth").network  # our own reading takes the averaged weights
    assert torch.equal(network.state_dict()["conv_first.weight"], saved["params_ema"]["conv_first.weight"])

    options["train"]["total_iter"] = 8
    options["path"]["resume_state"] = str(tmp_path / "experiments" / "tiny" / "training_states" / "6.state")
    assert "Resuming training from epoch" in run(options, tmp_path)

    test = {key: options[key] for key in ("name", "scale", "num_gpu", "manual_seed", "network_g", "val")}
    test |= {
        "model_type": "HATModel",
        "tile": {"tile_size": 16, "tile_pad": 18},
        "datasets": {"test_1": options["datasets"]["val_1"]},
    }
    latest = str(models / "net_g_latest.pth")
    test["path"] = {"pretrain_network_g": latest, "strict_load_g": True, "param_key_g": "params_ema"}
    printed = run(test, tmp_path, "--test")
    assert "# psnr:" in printed
    assert "Loaded net - current net" not in printed, "BasicSR finds the names that it expects"
    assert (tmp_path / "results" / "tiny" / "visualization" / "waves" / "0x2_tiny.png").is_file()


@with_basicsr
@pytest.mark.slow
def test_processes_that_load_data_can_import_basicsr_as_well():
    # Python imports the main module of its parent, under another name, where it starts processes anew (spawn, forkserver).
    code = "import geovit.apps.restoration.basicsr.__main__, sys; assert 'basicsr.data.paired_image_dataset' in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "functional_tensor" not in done.stderr
