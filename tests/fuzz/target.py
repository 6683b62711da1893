"""A reader with the folders that it is tried on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import strategies as st

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Target:
    """One reader.

    Parameters
    ----------
    name : str
    files : strategy of mapping of str to bytes
        Contents by path below the folder.
    read : callable
        Takes the folder.
    where : str
        A pattern that every message has, `IN` standing for the folder.
    valid : mapping of str to bytes
        A folder that must be read; it also imports what the reader imports late.
    worst : tuple of mappings
        Folders that are tried each time: large, or known to have done harm.
    base : mapping of str to bytes
        What lies in the folder beside the files that are tried.
    """

    name: str
    files: st.SearchStrategy[dict[str, bytes]]
    read: Callable[[Path], object]
    where: str
    valid: Files
    worst: tuple[Files, ...] = ()
    base: Files = field(default_factory=dict)
