import itertools
import math

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map
from monai.inferers import SliceInferer, sliding_window_inference
from torch import nn

from geovit.apps.medical import sliding
from geovit.apps.medical.plan import Channel, Plan, Target
from geovit.apps.medical.sliding import Slider
from geovit.apps.medical.windows import Axis, Route, importance, shortest_route

CPU = torch.device("cpu")


def slider(network, plan, *, max_memory=None, dtype=torch.float32, overlap=0.5, mirror=False):
    limit = None if max_memory is None else max_memory * 1e9
    cpu = torch.device("cpu")
    return Slider(network=network, plan=plan, device=cpu, dtype=dtype, overlap=overlap, mirror=mirror, limit=limit)


def segment(network, voxels, plan, *, probabilities=None, progress=None, **options):
    return slider(network, plan, **options).labels(voxels, probabilities_KXYZ=probabilities, tick=progress)


def predict(network, voxels, plan, **options):
    return slider(network, plan, **options).logits(voxels, tick=None)


def plan(classes=3, roi=(16, 16, 16), *, regions=False, channels=1):
    targets = tuple(Target(name=f"t{n}", values=(n,), output=n) for n in range(1, classes + 1))
    return Plan(channels=tuple(Channel(name=f"c{n}") for n in range(channels)), targets=targets, regions=regions, roi=roi)


class Net(nn.Module):
    """Sees its whole window, so that the same voxel looks different in every window."""

    def __init__(self, outputs, channels=1, axes=3):
        super().__init__()
        kind = nn.Conv3d if axes == 3 else nn.Conv2d
        self.conv = kind(channels, outputs, 3, padding=1)
        self.batches = []

    def forward(self, x):
        self.batches.append(len(x))
        y = self.conv(x)
        return y * (1 + x.flatten(1).std(1).view(-1, *[1] * (x.ndim - 1))) + y.flatten(2).mean(2).view(
            *y.shape[:2], *[1] * (x.ndim - 2)
        )


def monai(network, x, roi, overlap=0.5):
    with torch.inference_mode():
        return sliding_window_inference(x[None], roi, 1, network, overlap=overlap, mode="gaussian")[0]


@pytest.mark.parametrize("roi", [(16, 16, 16), (8, 12, 10), (96, 96, 96), (1, 5, 32)])
def test_weights_are_those_of_monai(roi):
    expected = compute_importance_map(roi, mode="gaussian", sigma_scale=0.125)
    torch.testing.assert_close(importance(roi), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("size", "roi", "overlap"),
    [
        ((37, 41, 23), (16, 16, 16), 0.5),
        ((20, 50, 33), (16, 12, 8), 0.25),
        ((20, 50, 33), (16, 12, 8), 0.0),
        ((30, 19, 22), (16, 16, 16), 0.8),
        ((10, 40, 5), (16, 16, 16), 0.5),  # smaller than the ROI on two axes
        ((16, 16, 16), (16, 16, 16), 0.5),
        ((7, 9, 11), (16, 16, 16), 0.6),
        ((17, 17, 17), (16, 16, 16), 0.5),  # last windows nearly on the first
    ],
)
def test_logits_and_labels_are_those_of_monai(size, roi, overlap):
    network, given = Net(4).eval(), plan(roi=roi)
    x = torch.randn(1, *size)
    expected = monai(network, x, roi, overlap)
    logits = predict(network, x, given, overlap=overlap)
    assert (logits - expected).abs().max() < 1e-5
    labels = segment(network, x, given, overlap=overlap)
    differ = np.asarray(expected.argmax(0).numpy() != labels)
    top = expected.topk(2, 0).values
    assert float((top[0] - top[1])[torch.from_numpy(differ)].max() if differ.any() else 0) < 1e-5  # ties alone
    assert differ.mean() < 1e-3
    assert labels.dtype == np.uint8


def test_pieces_change_no_bit():
    network = Net(4).eval()
    x = torch.randn(1, 37, 41, 60)
    slider = Slider(network=network, plan=plan(), device=CPU)
    expected = slider.logits(x)
    route = slider.choose(x.shape[1:]).route
    for pieces in range(2, route.most_pieces + 1):
        cut = Route(route.axes, route.order, pieces)
        choice = sliding.Choice(cut, (16, 16, 16), 3, 0, 0)
        found = torch.full_like(expected, math.nan)

        def take(box, sums, weights, found=found):
            found[(slice(None), *box)] = sums / weights

        slider._go(x, choice, take, weighted=True, tick=None)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # the network itself rounds otherwise in batches
        assert len(list(cut.steps())) == len(cut) > len(route)
        assert cut.open_voxels <= route.open_voxels


def test_what_is_open_is_what_was_predicted(monkeypatch):
    network, x = Net(4).eval(), torch.randn(1, 37, 41, 90)
    slider = Slider(network=network, plan=plan(), device=CPU)
    most, kept = 0, sliding._add

    def add(sums, *rest):
        nonlocal most
        kept(sums, *rest)
        most = max(most, sum(cell[0].numel() for cell in sums.values()))

    monkeypatch.setattr(sliding, "_add", add)
    for pieces in (1, 2, 4):
        most = 0
        route = shortest_route(x.shape[1:], (16, 16, 16), 0.5)
        cut = Route(route.axes, route.order, pieces)
        slider._go(x, sliding.Choice(cut, (16, 16, 16), 1, 0, 0), lambda *_: None, weighted=False, tick=None)
        assert most == cut.open_voxels < 37 * 41 * 90 / 2


def test_the_longest_axis_is_gone_along():
    assert shortest_route((60, 200, 61), (16, 16, 16), 0.5).order[0] == 1


def test_far_overlapping_windows_make_few_cells():
    axis = Axis(200, 64, 0.95)
    assert len(axis.starts) > 40
    assert len(axis.edges) - 1 <= 4 * 200 / 64
    assert axis.edges[0] == 0
    assert axis.edges[-1] == 200


def test_slices_of_2d_networks_are_those_of_monai():
    network, given = Net(4, axes=2).eval(), plan(roi=(16, 12))
    x = torch.randn(1, 37, 20, 9)
    with torch.inference_mode():
        inferer = SliceInferer(spatial_dim=2, roi_size=(16, 12), sw_batch_size=1, overlap=0.5, mode="gaussian")
        expected = inferer(x[None], network)[0]
    network.batches.clear()
    assert (predict(network, x, given) - expected).abs().max() < 1e-5
    assert max(network.batches) > 1
    assert (segment(network, x, given) == expected.argmax(0).numpy()).mean() > 0.999


def test_regions_are_painted_in_order_where_their_probability_is_above_one_half():
    network = Net(3).eval()
    given = Plan(
        channels=(Channel(name="c"),),
        targets=(
            Target(name="whole", values=(1, 2, 4), output=2),
            Target(name="core", values=(1, 4), output=1),
            Target(name="enhancing", values=(4,), output=4),
        ),
        regions=True,
        roi=(16, 16, 16),
    )
    x = torch.randn(1, 20, 30, 25)
    probabilities = np.zeros((3, 20, 30, 25), np.float32)
    labels = segment(network, x, given, probabilities=probabilities)
    expected = monai(network, x, (16, 16, 16)).sigmoid().numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    painted = np.zeros(labels.shape, np.uint8)
    for value, region in zip((2, 1, 4), expected, strict=True):
        painted[region > 0.5] = value
    assert (painted == labels).mean() > 0.9999
    assert set(np.unique(labels)) == {0, 1, 2, 4}


def test_probabilities_sum_to_one_and_agree_with_labels():
    network, x = Net(4).eval(), torch.randn(1, 20, 30, 25)
    probabilities = np.zeros((4, 20, 30, 25), np.float16)
    labels = segment(network, x, plan(), probabilities=probabilities)
    np.testing.assert_allclose(probabilities.astype(np.float32).sum(0), 1, atol=2e-3)
    chosen = np.take_along_axis(probabilities, labels[None].astype(np.int64), 0)[0]
    assert (chosen == probabilities.max(0)).all()


def test_labels_are_the_values_of_the_plan():
    given = plan()
    given = Plan(
        **{**vars(given), "targets": tuple(Target(name=t.name, values=t.values, output=500 * t.output) for t in given.targets)}
    )
    labels = segment(Net(4).eval(), torch.randn(1, 20, 20, 20), given)
    assert labels.dtype == np.uint16
    assert set(np.unique(labels)) <= {0, 500, 1000, 1500}


def test_mirrored_windows_are_averaged():
    network, x = Net(4).eval(), torch.randn(1, 20, 22, 18)

    def mean(windows):
        flips = [axes for n in range(4) for axes in itertools.combinations((2, 3, 4), n)]
        return sum(network(windows.flip(axes)).flip(axes) for axes in flips) / len(flips)

    assert (predict(network, x, plan(), mirror=True) - monai(mean, x, (16, 16, 16))).abs().max() < 1e-5


def test_bfloat16_is_near():
    network, x = Net(4).eval(), torch.randn(1, 20, 22, 18)
    labels = segment(network, x, plan(), dtype=torch.bfloat16)
    assert (labels == segment(network, x, plan())).mean() > 0.97


def test_several_channels_and_progress():
    network, x, told = Net(4, channels=2).eval(), torch.randn(2, 20, 22, 18), []
    labels = segment(network, x, plan(channels=2), progress=lambda done, total: told.append((done, total)))
    assert (labels == monai(network, x, (16, 16, 16)).argmax(0).numpy()).mean() > 0.999
    assert told[-1][0] == told[-1][1] == 8
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_networks_are_seen_in_evaluation_mode_and_left_as_they_were():
    network = nn.Sequential(nn.Dropout(0.9), Net(4)).train()
    x = torch.randn(1, 20, 22, 18)
    first = segment(network, x, plan())
    assert (first == segment(network, x, plan())).all()
    assert network.training


def test_little_memory_gives_pieces_then_smaller_windows_then_an_error(monkeypatch, caplog):
    network = Net(41).eval()
    size, given = (90, 120, 130), plan(40, roi=(32, 32, 32))
    monkeypatch.setattr(sliding, "used_bytes", lambda device: 0)
    monkeypatch.setattr(sliding, "_LATER", 0)

    def choose(gigabytes):
        return Slider(network=network, plan=given, device=CPU, limit=gigabytes * 1e9, frugal=True).choose(size)

    plenty = choose(4)
    assert plenty.route.pieces == 1
    assert plenty.batch == 27
    tight = choose(0.9 * plenty.route.open_voxels * 41 * 4 / 1e9)
    assert tight.route.pieces > 1
    assert tight.roi == (32, 32, 32)
    assert not caplog.messages
    with pytest.raises(
        ValueError, match=r"90 x 120 x 130 voxels need .* GB in windows of .*smallest possible; allowed are 0.001 GB"
    ):
        choose(1e-3)


def test_smaller_windows_are_told(monkeypatch, caplog):
    monkeypatch.setattr(sliding, "used_bytes", lambda device: 0)
    monkeypatch.setattr(sliding, "_LATER", 0)
    network, given = Net(41).eval(), plan(40, roi=(96, 96, 96))
    slider = Slider(network=network, plan=given, device=CPU, limit=0.35e9, frugal=True)
    choice = slider.choose((96, 96, 120))
    assert choice.roi < (96, 96, 96)
    assert all(side % 32 == 0 for side in choice.roi)
    assert "not 96 x 96 x 96 as in training" in caplog.text


def test_batches_are_halved_when_memory_runs_out(caplog):
    class Limited(Net):
        def forward(self, x):
            if len(x) > 2 and self.ready:
                raise RuntimeError("CUDA out of memory. Tried to allocate")
            return super().forward(x)

    network = Limited(4).eval()
    network.ready = True
    x = torch.randn(1, 37, 41, 23)
    labels = segment(network, x, plan())
    assert "out of memory" in caplog.text
    assert max(network.batches) <= 2
    network.ready = False
    assert (labels == segment(network, x, plan())).mean() > 0.9999


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y[:, 1:], r"gives \[1, 3, 16, 16, 16\], expected \[1, 4, 16, 16, 16\]"),
        (lambda y: y[..., 1:], "expected"),
        (lambda y: [y], "gives list"),
        (lambda y: y / 0, "not finite in float32: its weights are damaged"),
    ],
)
def test_networks_that_do_not_fit_are_refused(change, message):
    class Wrong(Net):
        def forward(self, x):
            return change(super().forward(x))

    with pytest.raises(ValueError, match=message):
        segment(Wrong(4).eval(), torch.randn(1, 10, 10, 10), plan())


@pytest.mark.parametrize("overlap", [1.0, -0.1, math.nan])
def test_overlap_is_checked(overlap):
    with pytest.raises(ValueError, match="overlap is .*, expected 0 or more and less than 1"):
        segment(Net(4).eval(), torch.randn(1, 10, 10, 10), plan(), overlap=overlap)
