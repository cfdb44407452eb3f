"""When a scene was taken, as far as its file says."""

import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

from .raster import NotARasterError, data_file, open_raster

# Domain and name of tags, the surest first. IMAGERY: GDAL's raster data model; ENVI: its header's "acquisition time";
# TIFFTAG_DATETIME: creation of the image in TIFF 6.0; providers such as Planet write there when it was taken.
_TAGS = (
    ("IMAGERY", "ACQUISITIONDATETIME"),
    ("ENVI", "acquisition_time"),
    ("", "acquisition_time"),
    ("", "datetime"),
    ("", "TIFFTAG_DATETIME"),
)
_SPANS = (("PRODUCT_START_TIME", "PRODUCT_STOP_TIME"), ("start_datetime", "end_datetime"), ("DATETIME_START", "DATETIME_STOP"))

Span = tuple[datetime, datetime]


def acquisition_time(source: str) -> Span | None:
    """Return the first and the last moment of a scene in UTC, from tags of its file; None if they do not say.

    Times without a zone are taken for UTC, a date for the whole day. Nothing is guessed from names.
    """
    try:
        if not Path(source).is_file():  # nothing is fetched for this
            return None
        with open_raster(data_file(source)) as src:
            plain = src.tags()
            tags = {
                (domain, key): value for domain in {d for d, _ in _TAGS} for key, value in src.tags(ns=domain or None).items()
            }
    except (NotARasterError, ValueError, OSError):
        return None
    for first, last in _SPANS:
        start, end = parse_time(plain.get(first, "")), parse_time(plain.get(last, ""))
        if start and end and start <= end:
            return start, end
    for text in tags.values():
        if moment := parse_time(text):
            return moment, moment + (timedelta(0) if ":" in text[10:] else timedelta(days=1, microseconds=-1))
    return None


def parse_time(text: str) -> datetime | None:
    """Read ISO 8601 or TIFF's ``YYYY:MM:DD HH:MM:SS``; None for anything else."""
    match = re.fullmatch(
        r"\s*(\d{4})[:-](\d\d)[:-](\d\d)(?:[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,6})\d*)?)?\s*(Z|UTC|[+-]\d\d:?\d\d)?\s*", text
    )
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    offset = "+00:00" if zone in (None, "Z", "UTC") else zone if ":" in zone else f"{zone[:3]}:{zone[3:]}"
    clock = f"{hour or '00'}:{minute or '00'}:{second or '00'}.{(fraction or '0').ljust(6, '0')}"
    try:
        return datetime.fromisoformat(f"{year}-{month}-{day}T{clock}{offset}").astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None
