import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from geovit.apps.restoration.cfsr import CFSR
from geovit.apps.restoration.network import Network
from geovit.apps.restoration.tiling import Load, Tiler

CPU = torch.device("cpu")
COLOURS = Load(read=3, made=3)


class Windows(Network):
    """Each window of 8 x 8 minus its mean, then a convolution: what a pixel becomes depends on the phase of the windows."""

    scale, in_channels, out_channels = 2, 3, 3
    multiple, halo = 8, 8
    exact_halo = True

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.seen = []

    def body(self, x_BCHW):
        self.seen.append(tuple(x_BCHW.shape[-2:]))
        mean = F.interpolate(F.avg_pool2d(x_BCHW, 8), scale_factor=8)
        return F.pixel_shuffle(self.conv(x_BCHW - 0.5 * mean), 2)


class Hungry(Windows):
    """Has memory for inputs up to a size only."""

    def __init__(self, most, error):
        super().__init__()
        self.most, self.error = most, error

    def body(self, x_BCHW):
        if x_BCHW.shape[-1] > self.most:
            raise self.error
        return super().body(x_BCHW)


def run(network, x, **options):
    return Tiler(network.eval(), CPU, **options).restored(x)


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (64, 64), (99, 133), (161, 80)])
@pytest.mark.parametrize("tile", [24, 40, 64])
def test_tiles_give_what_the_whole_image_gives_if_the_halo_is_exact(size, tile):
    network, x = Windows(), torch.rand(3, *size)
    with torch.inference_mode():
        whole = network.eval()(x[None])[0]
    torch.testing.assert_close(run(network, x, tile=tile), whole, rtol=0, atol=1e-6)


def test_a_published_network_with_an_exact_halo_gives_the_same():
    network, x = CFSR(8, (1, 1), kernel=5, layer_scale=1.0), torch.rand(3, 70, 90)
    with torch.inference_mode():
        whole = network.eval()(x[None])[0]
    torch.testing.assert_close(run(network, x, tile=48), whole, rtol=0, atol=1e-5)


def test_less_overlap_than_the_halo_fades_and_comes_near():
    network, x = CFSR(8, (1, 1), kernel=5, layer_scale=1.0), torch.rand(3, 70, 90)
    with torch.inference_mode():
        whole = network.eval()(x[None])[0]
    errors = [float((run(network, x, tile=48, overlap=overlap) - whole).abs().max()) for overlap in (0, 4, 12, 18)]
    assert errors[0] > errors[1] > errors[2] > 1e-4 > errors[3]


def test_tiles_are_whole_windows_in_the_phase_of_the_image():
    network = Windows()
    run(network, torch.rand(3, 99, 133), tile=40)
    assert {n % 8 for shape in network.seen for n in shape} == {0}, "what is not the image's end is no window's part"


def test_the_tile_is_rounded_up_and_may_not_be_too_small():
    assert Tiler(Windows(), CPU, tile=30).side((99, 99), COLOURS) == 32
    with pytest.raises(ValueError, match=r"tile is 16, expected 24 pixels or more at an overlap of 16 \(Windows\)"):
        Tiler(Windows(), CPU, tile=16)
    with pytest.raises(ValueError, match="overlap is -1"):
        Tiler(Windows(), CPU, overlap=-1)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_tiles_are_halved_when_memory_runs_out(caplog, error):
    network, x = Hungry(48, error), torch.rand(3, 130, 150)
    with torch.inference_mode():
        whole = Windows.body(network.eval(), network._filled_up(x[None]))[0, :, :260, :300]
    with caplog.at_level(logging.WARNING):
        result = run(network, x, tile=128)
    torch.testing.assert_close(result, whole, rtol=0, atol=1e-6)
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory with tiles of 128 pixels, going on with 64",
        "out of memory with tiles of 64 pixels, going on with 32",
    ]


def test_running_out_of_memory_with_the_smallest_tile_is_told():
    with pytest.raises(ValueError, match="out of memory with tiles of 24 pixels, the smallest possible: no"):
        run(Hungry(8, MemoryError("no")), torch.rand(3, 100, 100), tile=64)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="broken"):
        run(Hungry(8, RuntimeError("broken")), torch.rand(3, 100, 100), tile=64)


def test_tiles_shrink_with_the_memory_allowed(monkeypatch):
    monkeypatch.setattr("geovit.apps.restoration.tiling.used_bytes", lambda _: 10**9)
    network, size = CFSR(16, (1, 1)).eval(), (3000, 4000)
    sides = [Tiler(network, CPU, limit=limit).side(size, COLOURS) for limit in (4e9, 1.5e9, 1.3e9, 1.2e9)]
    assert sides == sorted(sides, reverse=True)
    assert len(set(sides)) > 2
    for side, limit in zip(sides, (4e9, 1.5e9, 1.3e9, 1.2e9), strict=True):
        assert 10**9 + Tiler(network, CPU).bytes_of(size, side, COLOURS) <= limit
    with pytest.raises(
        ValueError, match=r"4000 x 3000 pixels need 1\.\d\d GB in tiles of \d+, the smallest possible; allowed are 1.00"
    ):
        Tiler(network, CPU, limit=1.001e9).side(size, COLOURS)


def test_values_that_are_not_finite_are_an_error():
    network = Windows()
    nn.init.constant_(network.conv.bias, float("inf"))
    with pytest.raises(ValueError, match="Windows gives values that are not finite in float32: its weights are damaged"):
        run(network, torch.rand(3, 9, 9))


def test_every_tile_is_told():
    told = []
    tiler = Tiler(Windows().eval(), CPU, tile=40)
    x = torch.rand(3, 99, 60)
    tiler.restored(x, tick=lambda done, count: told.append((done, count)))
    assert told == [(done, told[-1][1]) for done in range(1, told[-1][1] + 1)]
