"""A stand-in for AWS, started and told what to do; and Terraform's provider, found without a registry where it lies on disk."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers.programs import free_port, program, running

__all__ = ["REGION", "ask", "aws_server", "credentials", "terraform_settings"]

REGION = "eu-central-1"
PROVIDER = "registry.terraform.io/hashicorp/aws/5.100.0"


def credentials(url: str) -> dict[str, str]:
    """What sends AWS's own clients, and Terraform, to the stand-in."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def ask(url: str, what: str, **content: Any) -> dict[str, Any]:
    """Tell the stand-in something, and hear what has come to it."""
    request = urllib.request.Request(f"{url}/by-the-book/{what}", json.dumps(content).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=20) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


@contextmanager
def aws_server(folder: Path) -> Iterator[str]:
    """moto with SageMaker by the book; gives its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return "changes" in ask(url, "hello")
        except OSError:
            return False

    command = [sys.executable, "-m", "tests.servers.sagemaker_by_the_book", str(port)]
    root = str(Path(__file__).parents[2])
    with running(command, answers, log=folder / "aws.log", env={**os.environ, "PYTHONPATH": root}):
        yield url


def terraform_settings(folder: Path) -> dict[str, str]:
    """Environment in which Terraform finds its provider: in a mirror on disk if there is one, else in the registry.

    A mirror is looked for where PENSTOCK_TF_PLUGINS says, where Terraform itself would look, and in folders under /opt.

    Raises:
        RuntimeError: Terraform is not installed.
    """
    program("terraform", package="terraform (HashiCorp's repository; Debian has none)")
    home = Path.home()
    places = [
        *([Path(os.environ["PENSTOCK_TF_PLUGINS"])] if "PENSTOCK_TF_PLUGINS" in os.environ else []),
        home / ".terraform.d" / "plugins",
        home / ".local" / "share" / "terraform" / "plugins",
        Path("/usr/local/share/terraform/plugins"),
        Path("/usr/share/terraform/plugins"),
        *sorted(Path("/opt").glob("*")),
    ]
    found = [place for place in places if (place / PROVIDER).is_dir()]
    settings = folder / "terraform.rc"
    method = f'filesystem_mirror {{ path = "{found[0]}" }}' if found else "direct {}"
    settings.write_text(f"provider_installation {{ {method} }}\n")
    return {"TF_CLI_CONFIG_FILE": str(settings)}
