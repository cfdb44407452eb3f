"""The folder of an unfinished run: where things lie in it, and whether another run can go on with them."""

from pathlib import Path

from .folder import empty
from .journal import DamagedJournalError, Journal, UnfinishedRunError

JOURNAL, PLAIN, MAKING, KEPT, RESULTS = "journal", "plain", "making", "kept", "results"


def earlier(folder: Path, *, resume: bool, overwrite: bool) -> Journal | None:
    """Return the journal of a run to go on with; None to begin."""
    if overwrite and not resume:
        return None
    file = folder / JOURNAL
    if not file.exists():
        if (folder / PLAIN).exists():
            raise unusable(folder, "its journal is missing")
        return None
    try:
        journal = Journal(file)
    except DamagedJournalError as error:
        raise unusable(folder, "its journal is damaged") from error
    done = sum("part" in entry for entry in journal.entries)
    over = any("over" in entry for entry in journal.entries)
    if over or not (done or any((folder / KEPT).glob("*"))):
        journal.close()
        if not journal.entries and (folder / PLAIN).exists():
            raise unusable(folder, "its journal is damaged")
        return None  # nothing is lost
    if not resume:
        journal.close()
        raise UnfinishedRunError(
            f"{folder}: an unfinished run is there, {done} of {journal.entries[0]['parts']} parts are done: "
            "pass --resume to go on with it, or --overwrite to begin anew"
        )
    return journal


def begun(folder: Path) -> Journal:
    """Empty the folder, or make it, and return a new journal."""
    empty(folder, last=JOURNAL)  # which tells, if this is cut off, that nothing there is needed
    return Journal(folder / JOURNAL)


def published(journal: Journal) -> bool:
    """Return whether all files were made, so that some of them may have appeared."""
    return any("publish" in entry for entry in journal.entries)


def unusable(folder: Path, why: str) -> UnfinishedRunError:
    """Return the error for what is damaged there."""
    return UnfinishedRunError(
        f"{folder}: cannot go on with the unfinished run, {why}: pass --overwrite and not --resume to begin anew"
    )
