"""A bill of materials of the environment that it is run in: CycloneDX 1.6, on standard output.

What is listed is what is installed. A component has the hashes of the lock's files for its version, and its licence as its metadata
say. Neither a time nor a random number is in it: the same environment gives the same bill.
Format: https://cyclonedx.org/docs/1.6/json/.
"""

import argparse
import json
import re
import sys
import uuid
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # of addresses


def normal(name: str) -> str:
    """A distribution's name as registries compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(path: Path) -> dict[tuple[str, str], list[str]]:
    """SHA-256 of the files of each name and version of a lock."""
    found: dict[tuple[str, str], list[str]] = {}
    hashes: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        pinned = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", line)
        if pinned:
            hashes = found.setdefault((normal(pinned[1]), pinned[2]), [])
        hashes += re.findall(r"--hash=sha256:([0-9a-f]{64})", line)
    return found


def component(distribution: Distribution, hashes: list[str]) -> dict[str, Any]:
    """One distribution."""
    name, version = normal(distribution.metadata["Name"]), distribution.version
    purl = f"pkg:pypi/{name}@{version}"
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    }
    licence = distribution.metadata["License-Expression"]
    named = distribution.metadata["License"]
    if licence:
        found["licenses"] = [{"expression": licence}]
    elif named and len(named) < 100:
        found["licenses"] = [{"license": {"name": named.strip()}}]
    if hashes:
        # Of the files that the lock allows, of which one was installed; as a distribution's, and not as the component's own.
        found["externalReferences"] = [
            {
                "type": "distribution",
                "url": purl,
                "hashes": [{"alg": "SHA-256", "content": value}],
            }
            for value in hashes
        ]
    return found


def bill(name: str, lock: Path) -> dict[str, Any]:
    """The bill.

    Args:
        name: Of the image.
        lock: What the environment was installed from.

    Raises:
        ValueError: Something is installed that is neither in the lock nor Penstock.
    """
    pinned = locked(lock)
    components = []
    for distribution in sorted(distributions(), key=lambda item: normal(item.metadata["Name"])):
        key = normal(distribution.metadata["Name"]), distribution.version
        if key not in pinned and key[0] != "penstock":
            raise ValueError(f"{key[0]} {key[1]} is installed, and not in {lock}")
        components.append(component(distribution, pinned.get(key, [])))
    version = next((item["version"] for item in components if item["name"] == "penstock"), "0")
    content = json.dumps(components, sort_keys=True)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, name + content)}",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": name, "name": name, "version": version}},
        "components": components,
        "dependencies": [{"ref": name, "dependsOn": [item["bom-ref"] for item in components]}],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lock", type=Path, required=True)
    parser.add_argument("--name", required=True)
    arguments = parser.parse_args()
    try:
        json.dump(bill(arguments.name, arguments.lock), sys.stdout, indent=2)
    except ValueError as error:
        sys.exit(f"error: {error}")
