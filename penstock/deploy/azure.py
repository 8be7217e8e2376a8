"""Deploying to Azure: plan, apply, promote, roll back, status, destroy.

What there is to do follows from what is declared and from what Azure says there is: nothing of it is kept on this machine.
So a second `apply` finds nothing to do, one that was killed goes on where it was, from whatever machine it is run, and two
people see the same. The order of the steps is that in which they need each other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from penstock.deploy import azure_resources as wanted
from penstock.deploy.azure_arm import ArmError
from penstock.deploy.azure_artefact import Artefact, local, missing, uploaded
from penstock.deploy.azure_resources import MANAGED, VERSIONS
from penstock.deploy.azure_serving import Serving
from penstock.deploy.azure_standing import Cloud, settle
from penstock.deploy.azure_steps import Change, Step
from penstock.errors import PenstockError

__all__ = ["apply", "destroy", "plan"]

TEMPLATE = Path("deploy/azure/foundation.json")
ROLE_PATIENCE = 300.0  # seconds until a new role is known everywhere
ROLE_WAIT = 10.0
# What Application Insights lays beside itself, without tags.
COMPANIONS = ("microsoft.alertsmanagement/smartdetectoralertrules", "microsoft.insights/actiongroups")


def plan(cloud: Cloud) -> list[Change]:
    """What `apply` would do now. Nothing is written."""
    group, foundation, *above = _steps(cloud)
    missing_group = group.look()
    if missing_group is not None:
        return [missing_group, *_made([foundation, *above])]
    changed = foundation.look()
    found = [] if changed is None else [changed]
    if not _stands(cloud):
        return found + _made(above)
    return found + [change for step in above if (change := step.look()) is not None]


def _made(steps: list[Step]) -> list[Change]:
    """What is to be done where nothing is there."""
    return [Change(step.what, "create") for step in steps if step.at_first]


def _stands(cloud: Cloud) -> bool:
    """Whether there is a foundation, without which whatever stands on it is to be made too."""
    try:
        cloud.foundation()
    except ArmError:
        raise
    except PenstockError:
        return False
    return True


def apply(cloud: Cloud) -> list[Change]:
    """Bring Azure in line with what is declared.

    Args:
        cloud: The deployment.

    Returns:
        What was done; nothing, if all was as declared.

    Raises:
        PenstockError: A step was refused. What was done stays; run again, it goes on there.
    """
    done: list[Change] = []
    for step in _steps(cloud):
        change = step.look()
        if change is not None:
            cloud.told(str(change))
            step.do()
            done.append(change)
    if cloud.view.image is None:
        made = cloud.foundation()
        raise PenstockError(
            f"the foundation is there; the predictor's image is to be pushed to {made.registry}.azurecr.io",
            hint="then name it by its digest: image=…azurecr.io/penstock-predictor@sha256:…, and apply again",
        )
    return done


def _steps(cloud: Cloud) -> list[Step]:
    key = cloud.view.signed_by
    artefact = local(cloud.root / cloud.view.model, cloud.root / key if key else None)
    steps = [_group(cloud), _foundation(cloud), _artefact(cloud, artefact)]
    if cloud.view.image is not None:
        serving = Serving(cloud, artefact, cloud.view.image)
        steps += serving.steps()
    return steps


def _group(cloud: Cloud) -> Step:
    path, version, body = cloud.ids.group, VERSIONS["group"], wanted.group(cloud.view)
    what = f"resource group {cloud.view.resource_group}"

    def look() -> Change | None:
        found = cloud.arm.find(path, version)
        if found is None:
            return Change(what, "create")
        ours(found.body, cloud)
        if str(found.body["location"]).lower() != cloud.view.location:
            raise PenstockError(
                f"{what}: is in {found.body['location']}, not in {cloud.view.location}",
                hint="a group cannot move: choose another resource_group, or this location",
            )
        return None

    return Step(what, look, lambda: cloud.arm.put(path, version, body))


def ours(body: Mapping[str, Any], cloud: Cloud) -> None:
    if (body.get("tags") or {}).get(MANAGED) != cloud.view.name:
        raise PenstockError(
            f"resource group {cloud.view.resource_group}: is there, and is not of this deployment",
            hint=f"choose another resource_group; nothing without the tag {MANAGED}={cloud.view.name} is touched",
        )


def _foundation(cloud: Cloud) -> Step:
    path, version = cloud.ids.foundation, VERSIONS["deployment"]
    template = _template(cloud.root)
    given = wanted.parameters(cloud.view)
    stamp = wanted.fingerprint(template, given)
    what = "foundation"

    def look() -> Change | None:
        found = cloud.arm.find(path, version)
        if found is None:
            return Change(what, "create", "workspace, storage, registry, vault, logs, identity and its roles")
        body = found.body
        if str(body["properties"].get("provisioningState")).lower() != "succeeded":
            return Change(what, "change", f"is {body['properties'].get('provisioningState')}")
        if (body.get("tags") or {}).get("penstock-fingerprint") != stamp:
            return Change(what, "change", "template or parameters are others")
        gone = _gone(cloud, body["properties"].get("outputResources") or [])
        return Change(what, "change", f"{gone} is gone") if gone else None

    def do() -> None:
        cloud.made = None
        body = {
            "tags": {MANAGED: cloud.view.name, "penstock-fingerprint": stamp},
            "properties": {"mode": "Incremental", "template": template, "parameters": given},
        }
        settle(cloud, path, version)
        cloud.arm.put(path, version, body)

    return Step(what, look, do)


def _template(root: Path) -> dict[str, Any]:
    path = root / TEMPLATE
    if not path.is_file():
        raise PenstockError(f"{path}: there is no such file", hint="run it in the repository")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _gone(cloud: Cloud, made: list[Mapping[str, Any]]) -> str | None:
    """The first of the foundation's resources that somebody has removed."""
    there = {
        item["id"].lower() for item in cloud.arm.listed(f"{cloud.ids.group}/resources", VERSIONS["group"])
    }
    for item in made:
        identifier = str(item["id"])
        # Lists name no children, nor what lies over another resource.
        top = identifier.lower().count("/providers/") == 1 and len(identifier.split("/")) == 9
        if top and identifier.lower() not in there:
            return "/".join(identifier.split("/")[-2:])
    return None


def _artefact(cloud: Cloud, artefact: Artefact) -> Step:
    what = f"artefact {artefact.prefix}"

    def look() -> Change | None:
        with cloud.container() as blobs:
            lacking = _once_known(cloud, lambda: missing(blobs, artefact))
        return Change(what, "create", ", ".join(lacking)) if lacking else None

    def do() -> None:
        with cloud.container() as blobs:
            _once_known(cloud, lambda: uploaded(blobs, artefact))

    return Step(what, look, do)


def _once_known(cloud: Cloud, work: Callable[[], list[str]]) -> list[str]:
    """A role that was just assigned is not known everywhere at once: what is refused is tried again for a while."""
    from azure.core.exceptions import HttpResponseError

    waited = 0.0
    while True:
        try:
            return work()
        except PenstockError as error:
            cause = error.__cause__
            denied = isinstance(cause, HttpResponseError) and cause.status_code == 403
            if not denied or cloud.view.deployer is None or waited >= ROLE_PATIENCE:
                raise
            if not waited:
                cloud.told("a new role takes a while to be known; waiting for it")
            waited += ROLE_WAIT
            cloud.sleep(ROLE_WAIT)


# --- the end ---


def destroy(cloud: Cloud) -> list[str]:
    """Remove all of it, and only it.

    Returns:
        What was removed.

    Raises:
        PenstockError: The resource group is not ours, or holds something else.
    """
    done: list[str] = []
    group = cloud.arm.find(cloud.ids.group, VERSIONS["group"])
    if group is not None:
        ours(group.body, cloud)
        _nothing_else(cloud)
        done += _emptied(cloud)
        if cloud.arm.delete(cloud.ids.group, VERSIONS["group"]):
            done.append(f"resource group {cloud.view.resource_group}")
    # Vaults stay in a bin for days, and their names with them.
    bin_ = f"{cloud.ids.subscription}/providers/Microsoft.KeyVault/deletedVaults"
    for vault in cloud.arm.listed(bin_, VERSIONS["vault"]):
        of = str(vault["properties"]["vaultId"]).lower()
        if of.startswith(cloud.ids.group.lower() + "/"):
            place = str(vault["properties"]["location"]).lower().replace(" ", "")
            where = f"{cloud.ids.subscription}/providers/Microsoft.KeyVault/locations/{place}/deletedVaults/{vault['name']}"
            cloud.arm.post(f"{where}/purge", VERSIONS["vault"])
            done.append(f"vault {vault['name']}, for good")
    return done


def _emptied(cloud: Cloud) -> list[str]:
    """Endpoint and workspace by themselves: what goes wrong is then said of them, and the workspace's name is free again."""
    if not _stands(cloud):
        return []  # it never came so far
    made = cloud.foundation()
    done = []
    if cloud.arm.delete(cloud.ids.endpoint(made), VERSIONS["ml"]):
        done.append(f"endpoint {cloud.view.endpoint} and its deployments")
    if cloud.arm.delete(cloud.ids.workspace(made), VERSIONS["ml"], query="forceToPurge=true"):
        done.append(f"workspace {made.workspace}, for good")
    return done


def _nothing_else(cloud: Cloud) -> None:
    for item in cloud.arm.listed(f"{cloud.ids.group}/resources", VERSIONS["group"]):
        kind = str(item["type"]).lower()
        if (item.get("tags") or {}).get(MANAGED) != cloud.view.name and not (
            (kind in COMPANIONS and "application insights smart detection" in str(item["name"]).lower())
            or kind == COMPANIONS[0]
        ):
            raise PenstockError(
                f"resource group {cloud.view.resource_group}: holds {item['type']} {item['name']}, which is not of this deployment",
                hint="move it elsewhere: removing the group would remove it too",
            )
