"""Azure as far as it can be had here: its storage emulator, and a stand-in for Resource Manager."""

from __future__ import annotations

import hashlib
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from azure.identity import DefaultAzureCredential
from azure.storage.blob import ContainerClient

from penstock.config.deploying import Azure
from penstock.deploy.azure_arm import Arm
from penstock.deploy.azure_standing import Cloud
from tests.servers.azure_stand_in import SUBSCRIPTION, StandIn, azure_stand_in
from tests.servers.azurite import Azurite, azurite

ROOT = Path(__file__).parents[3]
DIGESTS = [f"sha256:{hashlib.sha256(name).hexdigest()}" for name in (b"one", b"two")]


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)
        self.waited: list[float] = []

    def now(self) -> datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.time += timedelta(seconds=seconds)


@pytest.fixture(scope="session")
def blob_storage():
    with azurite() as found:
        yield found


@pytest.fixture
def containers(blob_storage: Azurite):
    """An empty container `artefacts`, as the template would have made it."""
    owner = ContainerClient(
        blob_storage.url,
        "artefacts",
        credential={"account_name": "devstoreaccount1", "account_key": blob_storage.key},
        connection_verify=str(blob_storage.authority),
    )
    owner.create_container()
    yield owner
    owner.delete_container()
    owner.close()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch):
    with azure_stand_in() as found:
        # As a managed identity is asked on App Service: azure-identity's own way, from a local address.
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{found.url}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", "header")
        for name in ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET", "MSI_ENDPOINT"):
            monkeypatch.delenv(name, raising=False)
        yield found


def artefact(folder: Path, content: bytes) -> None:
    """Files that pass for an artefact: what is in the ONNX file is nobody's business here."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    manifest = {"format": 1, "name": "churn", "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder with the template, the settings and an artefact."""
    shutil.copytree(ROOT / "deploy/azure", tmp_path / "deploy/azure")
    shutil.copytree(ROOT / "conf/deploy", tmp_path / "conf/deploy")
    artefact(tmp_path / "models/churn", b"first")
    return tmp_path


@pytest.fixture
def settings(stand_in: StandIn, blob_storage: Azurite, containers: ContainerClient) -> dict[str, object]:
    return {
        "name": "churn",
        "subscription": SUBSCRIPTION,
        "resource_group": "penstock-churn",
        "model": "models/churn",
        "image": f"churn.azurecr.io/penstock-predictor@{DIGESTS[0]}",
        "endpoint": "penstock-churn",
        "deployer": "12345678-1111-2222-3333-444444444444",
        "alerts": {"email": "operator@example.org"},
        "url": stand_in.url,
        "storage": blob_storage.url,
    }


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cloud(settings, repository: Path, blob_storage: Azurite, clock: Clock):
    """A deployment of which nothing is there yet."""
    with (
        DefaultAzureCredential(exclude_interactive_browser_credential=True) as credential,
        Arm(str(settings["url"]), credential, sleep=clock.sleep) as arm,
    ):

        def blobs(url: str, name: str, given) -> ContainerClient:
            return ContainerClient(url, name, credential=given, connection_verify=str(blob_storage.authority))

        view = Azure.model_validate(settings)
        yield Cloud(view, arm, credential, repository, now=clock.now, sleep=clock.sleep, blobs=blobs)
