"""Where the data of a run are looked for, which somebody else may have made: not wherever its config says.

A config of one's own may name any address and any folder. That of a run is only believed where it does no harm: no
address is asked that the catalogue does not have, and no folder is made that the command line did not name. What is
read is verified by its hash either way.
"""

from __future__ import annotations

from dataclasses import replace

from mlpcli.config import DataConfig
from mlpcli.datasets.catalogue import CATALOGUE
from mlpcli.datasets.load import is_there
from mlpcli.datasets.source import is_folder, named_path, shown_source
from mlpcli.errors import shown


def data_of_a_run(own: DataConfig, given: DataConfig | None = None) -> DataConfig:
    """``own``, the data section of a run's config, without addresses of its own, nor a folder that is not there yet.

    Its sources are the folders among them, or else the catalogue's.
    ``given`` is ``own`` with what the command line has changed, which stays as it is.
    """
    given = own if given is None else given
    sources, folder = given.sources, given.folder
    entry = CATALOGUE.get(given.dataset)
    if sources == own.sources:
        sources = tuple(source for source in own.sources or () if ":" not in source) or None
    if folder == own.folder and entry is not None and not is_folder(named_path(folder) / entry.name):
        folder = DataConfig().folder
    return replace(given, sources=sources, folder=folder)


def announcement(data: DataConfig) -> str | None:
    """What is to be said before ``data`` are read, if anything has to be fetched for it: what, to where, from where."""
    entry = CATALOGUE.get(data.dataset)
    if entry is None or entry.bundled or data.offline:
        return None
    folder = named_path(data.folder) / entry.name
    if all(is_there(folder, file) for file in entry.files.values()):
        return None
    sources = entry.sources if data.sources is None else data.sources
    return f"{entry.name}: not all there, fetched into {shown(folder)} from {', '.join(map(shown_source, sources))}"
