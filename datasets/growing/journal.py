"""What a run has finished, so that another can go on with it."""


class UnfinishedRunError(ValueError):
    """An earlier run was not finished, and it was not said whether to go on with it; or it was of another job."""
