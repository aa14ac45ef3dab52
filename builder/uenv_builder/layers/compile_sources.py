"""Run by the image's Python on the build machine, with the core of its library: sources come in, byte code goes out.

Each source is two lengths (little-endian, 32 bits), its path and its content; each answer a length and the .pyc, of
length 0 where the source is not valid.
"""

import importlib.util
import marshal
import sys
import warnings

_UNCHECKED_HASH = 1


def compile_source(path: str, content: bytes) -> bytes:
    """The .pyc of a source as PEP 552 lays it out: magic, flags, hash of the source, code."""
    try:
        code = compile(content, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return b""
    head = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH.to_bytes(4, "little") + importlib.util.source_hash(content)
    return head + marshal.dumps(code)


def main() -> None:
    """Answer until the input ends."""
    warnings.simplefilter("ignore")
    source, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := source.read(8):
        path = source.read(int.from_bytes(head[:4], "little")).decode()
        compiled = compile_source(path, source.read(int.from_bytes(head[4:], "little")))
        answers.write(len(compiled).to_bytes(4, "little") + compiled)
        answers.flush()  # so that the count of answers tells which source this process dies of


if __name__ == "__main__":
    main()
