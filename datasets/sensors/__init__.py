"""Sensors: which bands they have, and what their files' numbers mean."""

from .image import SensorImage
<<<<<<< HEAD
from .radiometry import Radiometry, decide_radiometry
=======
from .radiometry import Radiometry, Sample, decide_radiometry
>>>>>>> data
from .sensor import Band, Sensor, Unit
from .table import SENSORS, find_sensor, sensor

__all__ = [
    "SENSORS",
    "Band",
    "Radiometry",
<<<<<<< HEAD
=======
    "Sample",
>>>>>>> data
    "Sensor",
    "SensorImage",
    "Unit",
    "decide_radiometry",
    "find_sensor",
    "sensor",
]
