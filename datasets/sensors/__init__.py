"""Sensors: which bands they have, and what their files' numbers mean."""

from .image import SensorImage
from .radiometry import Radiometry, Sample, decide_radiometry
from .sensor import Band, Sensor, Unit
from .table import SENSORS, find_sensor, sensor

__all__ = [
    "SENSORS",
    "Band",
    "Radiometry",
    "Sample",
    "Sensor",
    "SensorImage",
    "Unit",
    "decide_radiometry",
    "find_sensor",
    "sensor",
]
