"""Sensors: which bands they have, and what their files' numbers mean."""

from .image import SensorImage
from .sensor import Band, Sensor, Unit
from .table import SENSORS, sensor

__all__ = ["SENSORS", "Band", "Sensor", "SensorImage", "Unit", "sensor"]
