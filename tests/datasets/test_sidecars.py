import json
import os
import shutil

import h5py
import numpy as np
import pytest
import rasterio

from geovit.datasets import open_collection, open_scene, open_volume
from geovit.datasets.cases import open_cases
from geovit.datasets.sidecars import beside, inside, linked


@pytest.mark.parametrize("name", ["a.tif", "sub/a.tif", "./a.tif", "sub/../a.tif"])
def test_files_of_the_folder_may_be_named(tmp_path, name):
    assert inside(tmp_path / "list.json", name).resolve() == (tmp_path / name).resolve()
    assert inside(tmp_path / "list.json", str(tmp_path / name)).resolve() == (tmp_path / name).resolve()


@pytest.mark.parametrize("name", ["../a.tif", "/etc/passwd", "sub/../../a.tif", "", "a\0b"])
def test_files_elsewhere_may_not(tmp_path, name):
    with pytest.raises(ValueError, match=r"outside of its folder|names no file"):
        inside(tmp_path / "list.json", name)


def test_a_folder_whose_name_begins_alike_is_elsewhere(tmp_path):
    with pytest.raises(ValueError, match="outside of its folder"):
        inside(tmp_path / "data" / "list.json", "../data2/a.tif")


def test_links_are_followed(tmp_path):
    (tmp_path / "store.tif").touch()
    (tmp_path / "product").mkdir()
    (tmp_path / "product" / "a.tif").symlink_to(tmp_path / "store.tif")
    assert beside(tmp_path / "product" / "x.xml", "a.tif").is_file()


@pytest.mark.parametrize(
    "href", ["https://host/a.tif?token=1", "s3://bucket/a.tif", "/vsicurl/https://host/a.tif", "/vsis3/b/a.tif"]
)
def test_addresses_may_be_linked(tmp_path, href):
    assert linked(tmp_path / "item.json", href) == href


@pytest.mark.parametrize(
    "href",
    ["file:///etc/passwd", "/vsizip//etc/a.zip/b.tif", "a.vrt", "https://host/a.vrt", "vrt:///etc/a.tif", "<VRTDataset/>",
     "MEM:::DATAPOINTER=1", "GTIFF_DIR:1:/etc/a.tif", "ftp://host/a.tif", "/vsistdin/", "../a.tif"],
)  # fmt: skip
def test_other_ways_to_name_things_may_not(tmp_path, href):
    with pytest.raises(ValueError, match=r"item\.json: names"):
        linked(tmp_path / "item.json", href)


@pytest.fixture
def secret(write_raster, cube, tmp_path):
    """A raster outside of the folder of data, and that folder."""
    path = write_raster("secret.tif", cube)
    (tmp_path / "data").mkdir()
    return path, tmp_path / "data"


def test_a_vrt_is_read_where_the_user_names_it_as_one(secret, cube):
    path, data = secret
    rasterio.shutil.copy(path, data / "mosaic.vrt", driver="VRT")
    np.testing.assert_array_equal(open_scene(data / "mosaic.vrt").read(), cube)
    shutil.copy(data / "mosaic.vrt", data / "scene.tif")
    with pytest.raises(ValueError, match=r"GDAL takes it for VRT, .*name it \.vrt if it is meant"):
        open_scene(data / "scene.tif")


def test_services_are_not_called(tmp_path):
    (tmp_path / "a.tif").write_text(
        '<GDAL_WMS><Service name="TMS"><ServerUrl>http://127.0.0.1:1/${z}/${x}/${y}.png</ServerUrl></Service><DataWindow>'
        "<UpperLeftX>0</UpperLeftX><UpperLeftY>1</UpperLeftY><LowerRightX>1</LowerRightX><LowerRightY>0</LowerRightY>"
        "<TileLevel>1</TileLevel><TileCountX>1</TileCountX><TileCountY>1</TileCountY></DataWindow></GDAL_WMS>"
    )
    with pytest.raises(ValueError, match="GDAL takes it for WMS"):
        open_scene(tmp_path / "a.tif")


@pytest.mark.parametrize("key", ["OVERVIEW_FILE", "MASK_FILE"])
def test_overviews_and_masks_elsewhere_are_refused(secret, write_raster, cube, key):
    path, data = secret
    other = write_raster("data/a.tif", cube)
    other.with_name("a.tif.aux.xml").write_text(
        f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="{key}">{path}</MDI></Metadata></PAMDataset>'
    )
    with pytest.raises(ValueError, match=r"secret\.tif', which lies outside of its folder"):
        open_scene(data / "a.tif")


def test_python_in_a_vrt_is_not_run(secret, tmp_path, monkeypatch):
    path, data = secret
    monkeypatch.setenv("GDAL_VRT_ENABLE_PYTHON", "YES")
    (data / "a.vrt").write_text(
        '<VRTDataset rasterXSize="30" rasterYSize="24">'
        '<VRTRasterBand dataType="Float32" band="1" subClass="VRTDerivedRasterBand">'
        "<PixelFunctionType>run</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionCode><![CDATA["
        f'\ndef run(*args, **kwargs):\n    open("{tmp_path}/ran", "w").close()\n]]></PixelFunctionCode>'
        f'<SimpleSource><SourceFilename relativeToVRT="0">{path}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(ValueError, match=r"a\.vrt"):
        open_scene(data / "a.vrt").read()
    assert not (tmp_path / "ran").exists()


def test_lists_of_cases_and_headers_of_volumes_name_files_of_their_folder(tmp_path):
    (tmp_path / "secret.nii.gz").touch()
    (tmp_path / "data").mkdir()
    listed = {"labels": {"0": "background", "1": "a"}, "training": [{"image": "../secret.nii.gz", "label": "../secret.nii.gz"}]}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(listed))
    with pytest.raises(ValueError, match="outside of its folder"):
        open_cases(tmp_path / "data" / "dataset.json")
    (tmp_path / "data" / "a.nhdr").write_text(
        "NRRD0004\ntype: float\ndimension: 3\nsizes: 2 2 2\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
        "space: left-posterior-superior\nendian: little\nencoding: raw\ndata file: ../secret.nii.gz\n\n"
    )
    with pytest.raises(ValueError, match="outside of its folder"):
        open_volume(tmp_path / "data" / "a.nhdr")


@pytest.mark.parametrize("href", ["../secret.tif", "/etc/secret.tif", "https://host/a.vrt"])
def test_items_of_a_catalogue_name_files_of_its_folder(tmp_path, href):
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": "a", "collection": "sentinel-2-l2a", "geometry": None, "links": [],
        "properties": {"datetime": "2023-06-10T07:46:21Z"}, "assets": {"B04": {"href": href, "type": "image/tiff"}},
    }  # fmt: skip
    data = tmp_path / "data"
    os.makedirs(data)
    (data / "item.json").write_text(json.dumps(item))
    (data / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [item, item | {"id": "b"}]}))
    for name in ("item.json", "items.json"):
        with pytest.raises(ValueError, match=r"json: names"):
            open_collection(data / name)


def test_a_catalogue_names_items_of_its_folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "item.json").write_text("{}")
    link = {"rel": "item", "href": "../item.json", "type": "application/json"}
    catalogue = {"type": "Catalog", "stac_version": "1.0.0", "id": "a", "description": "a", "links": [link]}
    (tmp_path / "data" / "catalog.json").write_text(json.dumps(catalogue))
    with pytest.raises(ValueError, match="outside of its folder"):
        open_collection(tmp_path / "data" / "catalog.json")


def test_hdf5_that_gdal_would_read_links_to_no_other(tmp_path):
    for name in ("secret.h5", "a.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            file["one"] = np.ones((5, 6))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["two"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/one")
    with pytest.raises(ValueError, match="two links to another file"):
        open_scene(tmp_path / "a.h5")
