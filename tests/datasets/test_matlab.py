import h5py
import numpy as np
import pytest
import scipy.io

from geovit.datasets import open_scene, read_labels


def save_v5(path, arrays):
    scipy.io.savemat(path, arrays)


def save_v73(path, arrays):
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file[name] = array.T  # MATLAB stores column-major: HDF5 sees the axes reversed
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(512))


@pytest.fixture(params=[save_v5, save_v73])
def save(request):
    return request.param


@pytest.fixture
def scene_array():
    return np.random.default_rng(0).integers(1, 1000, (7, 9, 4)).astype(np.uint16)


def test_the_only_cube_is_the_scene(tmp_path, save, scene_array):
    save(tmp_path / "a.mat", {"cube": scene_array, "gt": np.ones((7, 9)), "n": np.array([[3.0]])})
    for source in (tmp_path / "a.mat", f"{tmp_path}/a.mat:cube"):
        scene = open_scene(source)
        assert scene.grid.shape == (7, 9)
        assert scene.wavelengths is None
        np.testing.assert_array_equal(scene.read(), np.moveaxis(scene_array, -1, 0))


def test_several_cubes_need_a_key(tmp_path, save, scene_array):
    save(tmp_path / "a.mat", {"one": scene_array, "two": scene_array * 2})
    with pytest.raises(ValueError, match=r"one \(7, 9, 4\), two \(7, 9, 4\)\): name one, for example .*a\.mat:one"):
        open_scene(tmp_path / "a.mat")
    np.testing.assert_array_equal(open_scene(f"{tmp_path}/a.mat:two").read()[1], scene_array[..., 1] * 2)


def test_a_matrix_is_no_scene(tmp_path, save):
    save(tmp_path / "a.mat", {"Y": np.ones((198, 100))})
    with pytest.raises(ValueError, match=r"no 3-D array \(rows, columns, bands\); it holds Y \(198, 100\)"):
        open_scene(tmp_path / "a.mat")
    with pytest.raises(ValueError, match=r"Y has shape \(198, 100\)"):
        open_scene(f"{tmp_path}/a.mat:Y")
    with pytest.raises(ValueError, match="no array 'Z'"):
        open_scene(f"{tmp_path}/a.mat:Z")


def test_labels_are_found_by_the_shape_of_the_scene(tmp_path, save, scene_array):
    gt = np.zeros((7, 9))
    gt[2:4, 3], gt[5] = 14, 3
    save(tmp_path / "s.mat", {"s": scene_array})
    save(tmp_path / "gt.mat", {"gt": gt, "other": np.ones((9, 7))})
    labels = read_labels(tmp_path / "gt.mat", open_scene(tmp_path / "s.mat").grid)
    assert [info.value for info in labels.classes] == [3, 14]
    np.testing.assert_array_equal(np.array([0, 3, 14])[labels.index + 1], gt)


def test_labels_of_a_georeferenced_scene_may_be_an_array(tmp_path, save, grid):
    save(tmp_path / "gt.mat", {"gt": np.ones(grid.shape, np.uint8)})
    assert (read_labels(tmp_path / "gt.mat", grid).index == 0).all()
    with pytest.raises(ValueError, match=r"no 2-D array of the scene's shape \(7, 9\)"):
        read_labels(tmp_path / "gt.mat", grid.part(0, 0, 9, 7))


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89HDF\r\n\x1a\nrest", b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + b"\x0e\0\0\0\xff\0\0\0x"]
)
def test_damaged_files_are_named(tmp_path, content):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.mat: "):
        open_scene(tmp_path / "a.mat")


def test_a_truncated_file_is_named(tmp_path, save, scene_array):
    save(tmp_path / "a.mat", {"cube": scene_array})
    data = (tmp_path / "a.mat").read_bytes()
    (tmp_path / "a.mat").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ValueError, match=r"a\.mat: "):
        open_scene(tmp_path / "a.mat")


def test_missing_and_complex(tmp_path, save, scene_array):
    with pytest.raises(FileNotFoundError, match=r"x\.mat: no such file"):
        open_scene(f"{tmp_path}/x.mat:key")
    save(tmp_path / "a.mat", {"cube": scene_array * 1j})
    with pytest.raises(ValueError, match="expected real numbers"):
        open_scene(tmp_path / "a.mat")


def test_salinas(data_dir):
    folder = data_dir / "hyperspectral/salinas_a"
    scene = open_scene(folder / "SalinasA_corrected.mat")
    assert (scene.grid.shape, scene.num_bands) == ((83, 86), 204)
    labels = read_labels(folder / "SalinasA_gt.mat", scene.grid)
    assert {info.value: count for info, count in zip(labels.classes, labels.counts(), strict=True)} == {
        1: 391, 10: 1343, 11: 616, 12: 1525, 13: 674, 14: 799,
    }  # fmt: skip


def test_an_unmixing_file_is_refused_with_what_it_holds(data_dir):
    with pytest.raises(ValueError, match=r"Y \(198, 10000\)"):
        open_scene(data_dir / "hyperspectral/jasper_ridge/jasperRidge2_R198.mat")
