"""Read the layout of a checkpoint's tensors without running what it holds.

torch pickles the layout, and a pickle may name any function to be called. This reader knows the few
types that a layout is made of and refuses every other name.
"""

from __future__ import annotations

import pickle
from typing import Any

from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

TYPES = {
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {
        "Size",
        "bfloat16",
        "bool",
        "float16",
        "float32",
        "float64",
        "int16",
        "int32",
        "int64",
        "int8",
        "uint8",
    },
    "pathlib": {"PosixPath"},
    "pathlib._local": {"PosixPath"},  # the name of it in Python 3.13
}


class _LayoutUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return a type of a layout; raises UnpicklingError for any other name."""
        if global_name not in TYPES.get(module_name, ()):
            raise pickle.UnpicklingError(
                f"its layout asks for {module_name}.{global_name}, which no checkpoint needs"
            )
        return super().find_class(module_name, global_name)


class LayoutReader(FileSystemReader):
    """Torch's reader of a folder of tensors, with a layout that runs nothing."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the layout; raises UnpicklingError where it is none."""
        with self.fs.create_stream(self._get_metadata_path(kwargs.get("rank")), "rb") as file:
            layout = _LayoutUnpickler(file).load()
        if not isinstance(layout, Metadata):
            raise pickle.UnpicklingError("its layout is that of no checkpoint")
        if layout.storage_meta is None:
            layout.storage_meta = StorageMeta()
        layout.storage_meta.load_id = self.load_id
        return layout

    def read_tensor_layout(self) -> dict[str, TensorStorageMetadata]:
        """Return the sizes and types of the tensors by name; raises UnpicklingError."""
        layout: dict[str, TensorStorageMetadata] = {}
        for name, stored in self.read_metadata().state_dict_metadata.items():
            # torch would unpickle whatever is no tensor
            if not isinstance(stored, TensorStorageMetadata):
                raise pickle.UnpicklingError(f"it holds '{name}', which is no tensor")
            layout[name] = stored
        return layout
