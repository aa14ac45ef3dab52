"""Run by `spack python`: prints one JSON document with what the builder asks of Spack.

`machine TARGET` says whether this machine runs programs for the processor TARGET; `sources`, within an environment,
says where the sources of each package that is to be built come from.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

_SHA256_DIGITS = 64


def describe_machine(target: str) -> dict[str, object]:
    """The name of this processor, and whether it runs what is compiled for `target`."""
    import spack.platforms
    from spack.vendor.archspec.cpu import TARGETS, host

    wanted, here = TARGETS.get(target), host()
    return {
        "target": here.name,
        "family": str(here.family),
        "os": str(spack.platforms.host().operating_system("default_os")),
        "known": wanted is not None,
        "fits": wanted is not None and (here == wanted or wanted in here.ancestors),
    }


def describe_sources() -> dict[str, object]:
    """By the hash of each package that is to be built, its sources."""
    import spack.environment

    specs = spack.environment.active_environment().all_specs()
    return {spec.dag_hash(): list(find_sources(spec.package)) for spec in specs if not spec.external}


def find_sources(package: Any) -> Iterator[dict[str, object]]:  # noqa: ANN401  (Spack's own)
    """What is fetched for a package: its own source, resources, and patches from URLs."""
    for stage in package.stage:
        fetcher = getattr(stage, "default_fetcher", None)
        if fetcher is None or type(fetcher).__name__ == "BundleFetchStrategy":
            continue
        digest = getattr(fetcher, "digest", None)
        yield {
            "kind": type(fetcher).__name__,
            "url": str(getattr(fetcher, "url", "") or getattr(fetcher, "git", "")),
            "sha256": digest if digest and len(digest) == _SHA256_DIGITS else None,
            "commit": str(getattr(fetcher, "commit", "") or "") or None,
            "place": getattr(getattr(stage, "mirror_layout", None), "path", ""),
        }


if __name__ == "__main__":
    asked = sys.argv[1:]
    answer = describe_machine(asked[1]) if asked[0] == "machine" else describe_sources()
    sys.stdout.write(f"UENV-FACTS {json.dumps(answer)}\n")
