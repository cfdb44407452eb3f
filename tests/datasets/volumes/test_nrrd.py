"""NRRD: values and places in every space, and files that are refused."""

import bz2
import gzip
import tracemalloc

import numpy as np
import pytest

from geovit.datasets.volumes import open_volume

nrrd = pytest.importorskip("nrrd")

DIRECTIONS = np.array([[0.5, 0.1, 0], [-0.1, 0.7, 0], [0, 0, 2.0]])
ORIGIN = np.array([10.0, -20.0, 30.0])
HEAD = """NRRD0004
type: {type}
dimension: {dimension}
{space}sizes: {sizes}
{more}endian: {endian}
encoding: {encoding}

"""
TO_RAS = {
    "left-posterior-superior": (-1, -1, 1),
    "right-anterior-superior": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "LPS": (-1, -1, 1),
}
HEADER = {"space": "left-posterior-superior", "space directions": DIRECTIONS, "space origin": ORIGIN}
PLACED = "space directions: (0.5,0.1,0) (-0.1,0.7,0) (0,0,2)\nspace origin: (10,-20,30)\n"


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(-500, 500, (4, 5, 6)).astype(np.int16)


@pytest.fixture
def write(tmp_path, voxels):
    """Write a header by hand, with the voxels behind it."""

    def write(name="a.nrrd", *, data=voxels, content=None, **changes):
        usual = {"type": "short", "dimension": 3, "space": "space: left-posterior-superior\n", "more": PLACED, "endian": "little"}
        usual |= {"encoding": "raw", "sizes": " ".join(map(str, data.shape))}
        head = HEAD.format(**(usual | changes))
        encoding = changes.get("encoding", "raw")
        packed = {"gzip": gzip.compress, "bzip2": bz2.compress}.get(encoding, bytes)(data.tobytes(order="F"))
        (tmp_path / name).write_bytes(head.encode() + (packed if content is None else content))
        return tmp_path / name

    return write


def affine(signs=(-1, -1, 1)):
    placed = np.eye(4)
    placed[:3, :3], placed[:3, 3] = DIRECTIONS.T, ORIGIN
    return np.diag([*signs, 1.0]) @ placed


@pytest.mark.parametrize("space", TO_RAS)
@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
def test_voxels_and_place_in_every_space(write, voxels, space, encoding):
    volume = open_volume(write(space=f"space: {space}\n", encoding=encoding))
    np.testing.assert_array_equal(volume.voxels[0], voxels)
    np.testing.assert_allclose(volume.affine, affine(TO_RAS[space]))
    assert (volume.voxels.dtype, volume.stored, volume.format) == (np.int16, np.int16, "NRRD")


def test_what_pynrrd_writes(tmp_path, voxels):
    for dtype in (np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64):
        for order in "<>":
            data = np.abs(voxels).astype(np.dtype(dtype).newbyteorder(order))
            nrrd.write(
                str(tmp_path / "a.nhdr"),
                data,
                {"space": "LPS", "space directions": DIRECTIONS, "space origin": ORIGIN, "encoding": "raw"},
            )
            volume = open_volume(tmp_path / "a.nhdr")
            np.testing.assert_array_equal(volume.voxels[0], data)
            assert volume.voxels.dtype == dtype
            assert volume.voxels.dtype.isnative


def test_header_and_voxels_in_two_files(tmp_path, voxels):
    nrrd.write(str(tmp_path / "a.nhdr"), voxels, dict(HEADER))
    np.testing.assert_array_equal(open_volume(tmp_path / "a.nhdr").voxels[0], voxels)
    (tmp_path / "a.raw.gz").unlink()
    with pytest.raises(FileNotFoundError, match="a.nhdr: its data file .*a.raw.gz is missing"):
        open_volume(tmp_path / "a.nhdr")


@pytest.mark.parametrize("axis", [0, 3])
def test_the_axis_without_direction_has_the_channels(write, voxels, axis):
    data = np.stack([voxels, voxels + 1], axis=axis)
    vectors = PLACED.splitlines()[0].removeprefix("space directions: ")
    directions = f"space directions: {f'none {vectors}' if axis == 0 else f'{vectors} none'}\nspace origin: (10,-20,30)\n"
    path = write(data=data, more=directions, dimension=4)
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.voxels, np.stack([voxels, voxels + 1]))
    np.testing.assert_allclose(volume.affine, affine())
    with pytest.raises(ValueError, match=r"have 2 channels, expected 1 \(3-D\)"):
        open_volume(path, channels=1)


def test_kinds_tell_channels_without_directions(write, voxels):
    path = write(
        data=np.stack([voxels] * 2), more="kinds: list domain domain domain\nspacings: nan 1 2 3\n", space="", dimension=4
    )
    volume = open_volume(path)
    assert volume.voxels.shape == (2, 4, 5, 6)
    assert volume.spacing == (1, 2, 3)


def test_two_axes(write, voxels):
    volume = open_volume(
        write(data=voxels[..., 0], more="space directions: (0.5,0,0) (0,0,2)\nspace origin: (1,2,3)\n", dimension=2)
    )
    assert volume.voxels.shape == (1, 4, 5, 1)
    np.testing.assert_allclose(volume.affine, [[-0.5, 0, 0, -1], [0, 0, 1, -2], [0, 2, 0, 3], [0, 0, 0, 1]])


def test_a_file_without_space_is_told(write, caplog):
    volume = open_volume(write(space="", more="spacings: 1 2 3\n"))
    np.testing.assert_allclose(volume.affine, np.diag([-1, -2, 3, 1]))
    assert "states no anatomical space: its axes are taken as left, posterior, superior" in caplog.text


def test_lengths_become_millimetres(write):
    assert open_volume(write(more=PLACED + 'space units: "cm" "cm" "cm"\n')).spacing[2] == pytest.approx(20)
    with pytest.raises(ValueError, match="space units furlong"):
        open_volume(write(more=PLACED + 'space units: "furlong" "furlong" "furlong"\n'))


def test_skips(write, voxels):
    plain = voxels.tobytes(order="F")
    content = b"a line\nanother\n" + b"12345" + plain
    np.testing.assert_array_equal(
        open_volume(write(more=PLACED + "line skip: 2\nbyte skip: 5\n", content=content)).voxels[0], voxels
    )
    np.testing.assert_array_equal(
        open_volume(write(more=PLACED + "byte skip: -1\n", content=b"whatever" + plain)).voxels[0], voxels
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"type": "block"}, "block voxels, expected integers or floats"),
        ({"encoding": "ascii"}, "encoding ascii, expected raw, gzip or bzip2"),
        ({"endian": "none"}, "does not state the byte order"),
        ({"space": "space: scanner-xyz\n"}, "space scanner-xyz, expected right- or left-"),
        ({"more": ""}, "states neither space directions nor spacings"),
        ({"more": "space directions: (1,0,0) (2,0,0) (0,0,1)\n"}, "singular"),
        ({"more": "space directions: (1,0,0) (0,0,0) (0,0,1)\n"}, "voxels of 1 x 0 x 1 mm"),
        ({"more": "kinds: RGB-color domain domain\n"}, "rgb-color voxels, expected real numbers"),
        ({"more": PLACED + "data file: LIST\n"}, r"voxels in several files \(LIST\)"),
        ({"sizes": "4 5"}, "damaged header|voxels, expected two or three axes"),
        ({"sizes": "4 -5 6"}, "states sizes 4 x -5 x 6"),
        ({"sizes": "4 5 six"}, "damaged header"),
        ({"content": b""}, "truncated, or its header is damaged: 4 x 5 x 6 voxels of int16 need 240 bytes, the file holds 0"),
        ({"content": b"1234"}, "the file holds 4"),
        ({"encoding": "gzip", "content": b"no gzip at all"}, "truncated or damaged"),
    ],
)
def test_what_cannot_be_read_is_told(write, changes, told):
    with pytest.raises(ValueError, match=told) as raised:
        open_volume(write(**changes))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
def test_truncated_anywhere(write, encoding):
    path = write(encoding=encoding)
    whole = path.read_bytes()
    for count in [*range(1, len(whole) - 4, 23), len(whole) - 1]:
        path.write_bytes(whole[:count])
        with pytest.raises(ValueError, match=f"^{path}: ") as raised:
            open_volume(path)
        assert "\n" not in str(raised.value)


def test_a_header_that_claims_too_much_takes_no_memory(write):
    path = write(sizes="30000 30000 30000", encoding="gzip")
    tracemalloc.start()
    with pytest.raises(ValueError, match="30000 x 30000 x 30000 voxels of int16 need"):
        open_volume(path)
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()
