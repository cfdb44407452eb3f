import logging
import pickle
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from geovit.apps.restoration import models
from geovit.apps.restoration.foreign import SpandrelNetwork
from geovit.apps.restoration.models import open_restorer, packaged_models


@pytest.fixture
def packaged(tmp_path, monkeypatch, make_weights):
    folder = tmp_path / "pretrained"
    folder.mkdir()
    shutil.copy(make_weights(2), folder / "light.safetensors")
    shutil.copy(make_weights(4), folder / "light_x4.safetensors")
    monkeypatch.setattr(models, "PRETRAINED", folder)
    return folder


@pytest.fixture
def span(tmp_path):
    """A checkpoint of an architecture that only spandrel knows."""
    spandrel = pytest.importorskip("spandrel.architectures.SPAN", reason="needs spandrel")
    network = spandrel.SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2)
    path = tmp_path / "span.pth"
    torch.save({"params": network.state_dict()}, path)
    return network.eval(), path


class TestPackaged:
    def test_each_file_is_a_model(self, packaged):
        assert list(packaged_models(packaged)) == ["light", "light_x4"]

    def test_the_smallest_scale_is_the_default(self, packaged, caplog):
        with caplog.at_level(logging.INFO):
            assert open_restorer().network.scale == 2
        assert "licence of the weights: CC0-1.0" in caplog.text
        assert "CFSR, scale 2: " in caplog.text
        assert "none missing" in caplog.text

    def test_models_are_found_by_scale_and_by_name(self, packaged):
        assert open_restorer(scale=4).network.scale == 4
        assert open_restorer(model="light_x4").network.scale == 4

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"scale": 3}, r"no packaged model of scale 3: there are light \(scale 2\), light_x4 \(scale 4\)"),
            ({"model": "dark"}, r"no model 'dark': there are light \(scale 2\)"),
            ({"model": "light", "scale": 4}, r"model light has scale 2, not 4: there are"),
            ({"scale": 0}, "scale is 0, expected 1 or more"),
            ({"model": "light", "weights": "x.pth"}, "both weights and a model were given"),
        ],
    )
    def test_what_there_is_not_is_told_with_what_there_is(self, packaged, options, message):
        with pytest.raises(ValueError, match=message):
            open_restorer(**options)


class TestFiles:
    def test_a_published_checkpoint_of_ours(self, make_weights):
        restorer = open_restorer(make_weights(4), scale=4)
        assert (restorer.architecture.name, restorer.network.training) == ("cfsr", False)

    def test_another_scale_than_asked_for(self, make_weights):
        with pytest.raises(ValueError, match="small_3x2.safetensors has scale 2, not 4"):
            open_restorer(make_weights(2), scale=4)

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file"):
            open_restorer(tmp_path / "none.pth")

    def test_a_pickle_with_code_is_not_run(self, tmp_path):
        class Code:
            def __reduce__(self):
                return print, ("this must not run",)

        path = tmp_path / "code.pth"
        path.write_bytes(pickle.dumps({"params": Code()}, protocol=2))
        with pytest.raises(ValueError, match="code.pth holds more than tensors, or is no checkpoint"):
            open_restorer(path)
        torch.save({"params": Code()}, path)
        with pytest.raises(ValueError, match="code.pth holds more than tensors"):
            open_restorer(path)


class TestForeign:
    def test_it_computes_what_the_original_computes(self, span):
        original, path = span
        restorer = open_restorer(path)
        assert isinstance(restorer.network, SpandrelNetwork)
        assert restorer.architecture.official == "SPAN"
        assert restorer.coverage.elements == sum(p.numel() for p in original.state_dict().values())
        x = torch.rand(2, 3, 13, 10)
        with torch.inference_mode():
            torch.testing.assert_close(restorer.network(x), original(x).clamp(0, 1))

    def test_precisions_and_sizes_are_taken_over(self):
        pytest.importorskip("spandrel", reason="needs spandrel")
        model = nn.Module()
        model.attention = nn.Identity()
        model.attention.window_size = (12, 12)
        needs = SimpleNamespace(multiple_of=8, minimum=16, square=False)
        descriptor = SimpleNamespace(
            scale=1, input_channels=3, output_channels=3, model=model, size_requirements=needs,
            tiling=SimpleNamespace(name="DISCOURAGED"), architecture=SimpleNamespace(name="Net"), supports_half=False,
            supports_bfloat16=True,
        )  # fmt: skip
        network = SpandrelNetwork(descriptor)
        assert (network.multiple, network.halo % 24, network.halo >= 64) == (24, 0, True)
        assert list(network.unsafe) == [torch.float16]
        assert SpandrelNetwork.unsafe == {}, "another network's flags are its own"

    def test_an_unknown_architecture_is_told_with_the_known(self, tmp_path):
        pytest.importorskip("spandrel", reason="needs spandrel")
        path = tmp_path / "other.pth"
        torch.save(nn.Linear(3, 4).state_dict(), path)
        with pytest.raises(
            ValueError, match=r"other.pth is of no known architecture \(first tensor weight\): it is none of .*CFSR"
        ):
            open_restorer(path)

    def test_an_architecture_without_all_its_tensors(self, span, tmp_path):
        original, _ = span
        state = original.state_dict()
        del state["block_2.c1_r.sk.weight"]
        path = tmp_path / "part.pth"
        torch.save(state, path)
        with pytest.raises(ValueError, match=r"part.pth: spandrel finds an architecture, but its tensors do not fit: .*block_2"):
            open_restorer(path)

    def test_networks_that_need_more_than_an_image_are_refused(self, span, monkeypatch):
        import spandrel

        loaded = SimpleNamespace(purpose="Inpainting", architecture=SimpleNamespace(name="LaMa"))
        monkeypatch.setattr(spandrel.ModelLoader, "load_from_state_dict", lambda *_: loaded)
        with pytest.raises(ValueError, match=r"span.pth is a network for Inpainting \(LaMa\): expected one that makes an image"):
            open_restorer(span[1])

    def test_spandrel_is_optional(self, span, monkeypatch):
        monkeypatch.setitem(sys.modules, "spandrel", None)
        with pytest.raises(ImportError, match=r"other architectures need spandrel: pip install 'geovit\[restoration\]'"):
            open_restorer(span[1])
