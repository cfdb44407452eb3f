"""The sensors that are known."""

from difflib import get_close_matches

from .sensor import Band, Sensor

_S2 = {
    "B01": 443, "B02": 490, "B03": 560, "B04": 665, "B05": 705, "B06": 740, "B07": 783, "B08": 842, "B8A": 865, "B09": 945,
    "B10": 1375, "B11": 1610, "B12": 2190,
}  # fmt: skip

_ALL = (
    Sensor("sentinel-2-l1c", tuple(Band(n, float(w)) for n, w in _S2.items()), 10.0, "reflectance", 1e-4, -0.1, (0.0, 1.2)),
    Sensor(
        "sentinel-2-l2a",
        tuple(Band(n, float(w)) for n, w in _S2.items() if n != "B10"),
        10.0,
        "reflectance",
        1e-4,
        0.0,
        (0.0, 1.2),
    ),
    Sensor("sentinel-1-rtc", (Band("VV", polarization="VV"), Band("VH", polarization="VH")), 10.0, "dB", 1.0, 0.0, (-50.0, 20.0)),
)

SENSORS = {sensor.name: sensor for sensor in _ALL}


def sensor(name: str) -> Sensor:
    """Return a sensor by its name.

    Raises:
        ValueError: if there is none; it tells the near ones.
    """
    if name in SENSORS:
        return SENSORS[name]
    near = get_close_matches(name, SENSORS)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(f"unknown sensor {name!r}: {hint}allowed are {', '.join(SENSORS)}")
