"""Images of several GiB that take no time and no place."""

import os

from uenv_builder.images.squashfs.image_file import ImageFile
from uenv_builder.images.squashfs.tree import Piece, Source

_ZEROS = bytes(1 << 20)


class Zeros(Source):
    """A source of so many MiB of zeros; `leave_out_zeros` has them written as holes, and not hashed."""

    def __init__(self, size):
        super().__init__([Piece(-1, 0, size << 20)])

    def chunks(self, start, length):
        for _ in range(start, start + length, len(_ZEROS)):
            yield _ZEROS


def leave_out_zeros(monkeypatch):
    written = ImageFile._write

    def write(self, chunk):
        if chunk is _ZEROS:
            self._file.finish()  # as far as it was written
            os.lseek(self._file.descriptor, len(chunk), os.SEEK_CUR)
        else:
            written(self, chunk)

    monkeypatch.setattr(ImageFile, "_write", write)
