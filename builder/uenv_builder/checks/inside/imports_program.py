"""Imports the modules that standard input names (JSON list) and prints what happened as JSON, on the last line."""

from __future__ import annotations

import importlib
import json
import platform
import sys
import time


def import_module(name: str) -> dict[str, object]:
    """Import `name`; its version if it has one, the seconds that it took, or the error."""
    # The last line before a crash says who crashed.
    print(f"importing {name}", file=sys.stderr, flush=True)
    started = time.monotonic()
    try:
        module = importlib.import_module(name)
    except Exception as error:  # noqa: BLE001  (a module may raise anything)
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}
    version = getattr(module, "__version__", None)
    return {"ok": True, "version": str(version or ""), "seconds": round(time.monotonic() - started, 3)}


def main() -> None:
    """Import all and print."""
    modules = {name: import_module(name) for name in json.load(sys.stdin)}
    python = ".".join(str(number) for number in sys.version_info[:3])
    answer = {"python": python, "machine": platform.machine(), "modules": modules}
    print("\n" + json.dumps({"answer": answer}), flush=True)


if __name__ == "__main__":
    main()
