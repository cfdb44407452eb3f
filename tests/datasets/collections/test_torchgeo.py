import numpy as np
import pytest
import torch
from rasterio.windows import Window

from geovit.datasets.collections import from_torchgeo


class Scenes:
    """As a NonGeoDataset of torchgeo: samples by number."""

    def __init__(self, numbers, bands=12):
        self.images = [torch.from_numpy(numbers(bands, seed=seed).astype(np.float32)) for seed in range(3)]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "mask": torch.full((32, 32), index)}


def test_samples_by_number(numbers):
    found = from_torchgeo(Scenes(numbers), sensor="S2L2A")
    assert found.places == ("000000", "000001", "000002")
    image = found.read("000002", window=Window(2, 3, 5, 4))["sentinel-2-l2a"]
    np.testing.assert_allclose(image.values, numbers(12, seed=2)[:, 3:7, 2:7] * 1e-4 - 0.1, atol=1e-6)
    assert (found.labels("000002") == 2).all()
    assert image.gsd == 10


def test_bands_are_told_or_refused(numbers):
    with pytest.raises(ValueError, match="torchgeo Scenes: 3 bands without names, expected the 12 of sentinel-2-l2a"):
        from_torchgeo(Scenes(numbers, 3), sensor="S2L2A")
    found = from_torchgeo(Scenes(numbers, 3), sensor="S2L2A", bands=["B04", "B03", "B02"])
    assert [band.name for band in found.bands("S2L2A")] == ["B04", "B03", "B02"]


def test_sample_of_another_size_is_named(numbers):
    scenes = Scenes(numbers)
    scenes.images[1] = scenes.images[1][:, :16, :16]
    found = from_torchgeo(scenes, sensor="S2L2A", check=False, keep_mib=0)
    with pytest.raises(ValueError, match="sample 1 is of shape .12, 16, 16., the first is of .12, 32, 32."):
        found.read("000001")


# Out of our hands: how torchgeo 0.8 multiplies affine's transforms.
@pytest.mark.filterwarnings("ignore:Use `@` matmul instead of:PendingDeprecationWarning")
def test_geo_dataset_with_a_sampler_of_torchgeo(numbers, write, tmp_path):
    from torchgeo.datasets import RasterDataset
    from torchgeo.samplers import GridGeoSampler

    write("tile.tif", numbers(3, 64))
    dataset = RasterDataset(tmp_path)
    with pytest.raises(ValueError, match="a GeoDataset needs a sampler"):
        from_torchgeo(dataset, sensor="S2L2A", bands=["B04", "B03", "B02"])
    sampler = GridGeoSampler(dataset, size=32, stride=32)
    found = from_torchgeo(dataset, sensor="S2L2A", bands=["B04", "B03", "B02"], sampler=sampler)
    assert len(found) == 4
    whole = numbers(3, 64) * 1e-4 - 0.1
    for place in found.places:
        image = found.read(place)["sentinel-2-l2a"]
        column = round((image.grid.transform.c - 4e5) / 10)
        row = round((5.8e6 - image.grid.transform.f) / 10)
        np.testing.assert_allclose(image.values, whole[:, row : row + 32, column : column + 32], atol=1e-6)
        assert image.gsd == 10
