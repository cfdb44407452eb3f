"""Our networks in BasicSR: its own training pipeline, its option files, its checkpoints.

    python -m geovit.apps.restoration.basicsr -opt train.yml
    python -m geovit.apps.restoration.basicsr -opt test.yml --test

An option file of BasicSR, or of a published network's own repository, works with nothing changed but the type of ``network_g``:
``GeovitHAT`` in place of ``HAT``, with the same arguments. Checkpoints are read and written in the published layout.
"""

from .loading import import_basicsr
from .networks import PublishedNetwork, network_classes, register

__all__ = ["PublishedNetwork", "import_basicsr", "network_classes", "register"]
