"""What an HDF5 file from outside would make us read: whether it reaches into others, and how much it unpacks to."""

from __future__ import annotations

import h5py


def points_outside(group: h5py.Group, seen: set[int] | None = None) -> bool:
    """Whether a group or anything below it is a link, is stored externally or is virtual.

    Args:
        seen: addresses of groups already walked, since groups can hold one another.
    """
    seen = set() if seen is None else seen
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            return True
        item = group[name]
        if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            return True
        address = h5py.h5o.get_info(item.id).addr
        if isinstance(item, h5py.Group) and address not in seen:
            seen.add(address)
            if points_outside(item, seen):
                return True
    return False


def unpacked_bytes(group: h5py.Group) -> int:
    """What all datasets below a group hold once they are decompressed."""
    total = 0

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        nonlocal total
        if isinstance(item, h5py.Dataset) and item.size is not None:
            total += int(item.size) * item.dtype.itemsize

    group.visititems(add)
    return total
