"""Restrictions on the data sources of a run's config, which another person may have written.

The user's own config may name any address and any folder. From a run's config, only harmless settings are used: no
address outside the catalogue is contacted, and no folder is created unless the command line names it. Data are
verified by hash in any case.
"""

from __future__ import annotations

from dataclasses import replace

from mlpcli.config import DataConfig
from mlpcli.datasets.catalogue import CATALOGUE
from mlpcli.datasets.load import is_there
from mlpcli.datasets.source import is_folder, named_path, shown_source
from mlpcli.errors import shown


def data_of_a_run(own: DataConfig, given: DataConfig | None = None) -> DataConfig:
    """Return ``own``, the data section of a run's config, without its own addresses and without missing folders.

    Its sources are the folders among them, or else the catalogue's. ``given`` is ``own`` with the changes of the
    command line, which are not restricted.
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
    """Return a message for the user if ``data`` must be fetched: the data set, the folder and the sources."""
    entry = CATALOGUE.get(data.dataset)
    if entry is None or entry.bundled or data.offline:
        return None
    folder = named_path(data.folder) / entry.name
    if all(is_there(folder, file) for file in entry.files.values()):
        return None
    sources = entry.sources if data.sources is None else data.sources
    return f"{entry.name}: incomplete, fetched into {shown(folder)} from {', '.join(map(shown_source, sources))}"
