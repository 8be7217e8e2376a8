"""`penstock deploy aws` as it is run: real Terraform and boto3 against moto, from nothing to nothing; and what its policies allow."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.artifact.signature import make_key, sign
from penstock.config.deploying.aws import Aws
from penstock.deploy.aws_infrastructure import infrastructure
from penstock.deploy.aws_release import connected
from tests.servers.aws import REGION, ask, aws_server, credentials, terraform_settings

REPOSITORY = Path(__file__).parents[3]
SOME = 18  # of what it asks of S3, ECR, logs and CodeBuild, which are about 25; and as many of IAM beside it
ACCOUNT = "123456789012"
DECLARED: dict[str, Any] = {
    "name": "churn",
    "region": REGION,
    "model": "models/churn",
    "key": "release.pub",
    "image": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/churn-predictor@sha256:" + "a" * 64,
    "update": {"kind": "canary", "percent": 10, "wait": "10m"},
    "shadow": {"least": "0s"},
    "alarms": {"emails": ["ml@example.org"]},
    "retraining": {
        "schedule": "cron(0 3 ? * SUN *)",
        "repository": "https://github.com/example/penstock.git",
        "image": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/churn-trainer@sha256:" + "b" * 64,
        "signing_key": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:penstock/signing-AbCdEf",
    },
    "deployer": {"repository": "example/penstock", "environments": ["shadow", "production"]},
    "state": {"bucket": "example-terraform"},
    "pause": "PT0.005S",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What of a repository is needed: a declaration, Terraform's files, a signed artefact."""
    root = tmp_path_factory.mktemp("repository")
    (root / "conf" / "deploy").mkdir(parents=True)
    (root / "conf" / "deploy" / "aws.yaml").write_text(yaml.safe_dump(DECLARED))
    shutil.copytree(REPOSITORY / "deploy" / "aws", root / "deploy" / "aws")
    folder = root / "models" / "churn"
    folder.mkdir(parents=True)
    make_key(root / "release.pem")
    (folder / "model.onnx").write_bytes(b"a model")
    (folder / "manifest.json").write_text(json.dumps({"name": "churn"}))
    sign(folder, root / "release.pem")
    return root


@pytest.fixture(scope="module")
def cloud(root: Path) -> Iterator[str]:
    with aws_server(root) as url, pytest.MonkeyPatch.context() as patch:
        for name, value in (credentials(url) | terraform_settings(root)).items():
            patch.setenv(name, value)
        yield url


def started(root: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "penstock.cli", "deploy", "aws", *arguments],
        cwd=root, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def deploy(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ended(started(root, *arguments))


@pytest.fixture(scope="module")
def begun(root: Path, cloud: str) -> Iterator[subprocess.Popen[str]]:
    """`apply`, after one that was killed with Terraform and all when it had made some of it, before the state knew.

    The provider waits for a minute until S3 is sure of its lifecycle rules: tests of the plan go first.
    """
    with started(root, "apply") as killed:
        ask(cloud, "kill", pid=-killed.pid, at=SOME, before=False)  # the whole group
        assert killed.wait(120) == -signal.SIGKILL
    with started(root, "apply") as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def first(begun: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """What it said when it was done."""
    done = ended(begun)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def view() -> Aws:
    return Aws.model_validate(DECLARED)


@pytest.fixture(scope="module")
def plan(root: Path, begun: object, view: Aws, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What would be made of nothing, as data: another name, so that the plan is all of it."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(root / "deploy", elsewhere / "deploy")
    alone = view.model_copy(update={"state": view.state.model_copy(update={"bucket": None})})
    terraform = infrastructure(alone, elsewhere)
    terraform.prepare()
    found = terraform.planned()
    assert not terraform.state.exists()
    return found


def resources(plan: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [
        item["change"]["after"]
        for item in plan["resource_changes"]
        if item["type"] == kind and item["mode"] == "managed"
    ]


# Before anything is made


def test_the_bucket_is_versioned_encrypted_private(plan: dict[str, Any]) -> None:
    (versioning,) = resources(plan, "aws_s3_bucket_versioning")
    assert versioning["versioning_configuration"][0]["status"] == "Enabled"
    (encryption,) = resources(plan, "aws_s3_bucket_server_side_encryption_configuration")
    assert encryption["rule"][0]["apply_server_side_encryption_by_default"][0]["sse_algorithm"] == "aws:kms"
    (block,) = resources(plan, "aws_s3_bucket_public_access_block")
    switches = ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
    assert all(block[name] for name in switches)
    assert len(resources(plan, "aws_s3_bucket")) == 1  # no bucket that is none of these


def test_images_cannot_be_replaced_and_are_scanned(plan: dict[str, Any]) -> None:
    repositories = resources(plan, "aws_ecr_repository")
    assert {item["name"] for item in repositories} == {"churn-predictor", "churn-trainer"}
    for item in repositories:
        assert item["image_tag_mutability"] == "IMMUTABLE"
        assert item["image_scanning_configuration"][0]["scan_on_push"]


def test_logs_do_not_stay_for_ever(plan: dict[str, Any]) -> None:
    groups = resources(plan, "aws_cloudwatch_log_group")
    assert {item["name"] for item in groups} == {
        "/aws/sagemaker/Endpoints/churn",
        "/aws/codebuild/churn-retraining",
    }
    assert all(item["retention_in_days"] == 90 for item in groups)


def test_alarms_look_at_the_variants_that_there_are(plan: dict[str, Any], view: Aws) -> None:
    alarms = {item["alarm_name"]: item for item in resources(plan, "aws_cloudwatch_metric_alarm")}
    assert set(alarms) == {"churn-errors", "churn-latency", "churn-shadow-errors"}
    assert alarms["churn-latency"]["dimensions"] == {"EndpointName": "churn", "VariantName": "production"}
    assert alarms["churn-latency"]["threshold"] == view.alarms.latency_p99_ms * 1000
    assert alarms["churn-shadow-errors"]["dimensions"]["VariantName"] == "shadow"
    assert {item["treat_missing_data"] for item in alarms.values()} == {"notBreaching"}
    for query in alarms["churn-errors"]["metric_query"]:
        for metric in query["metric"]:
            assert metric["dimensions"] == {"EndpointName": "churn", "VariantName": "production"}


# After it is made, as AWS has it: policies are known only then, with the names that they speak of

NEITHER = {"ecr:GetAuthorizationToken", "cloudwatch:PutMetricData"}  # AWS defines no resource for these


@pytest.fixture(scope="module")
def policies(first: object, root: Path, view: Aws) -> dict[str, list[dict[str, Any]]]:
    """Statements of every policy in Terraform's state, by resource; what is attached by name and not by text is none of ours."""
    terraform = infrastructure(view, root)
    state = json.loads(terraform._run("show", "-json", capture=True).stdout)
    found: dict[str, list[dict[str, Any]]] = {}
    attached = []
    for item in state["values"]["root_module"]["resources"]:
        if item["mode"] != "managed":
            continue
        if item["type"] == "aws_iam_role_policy_attachment":
            attached.append(item["values"]["policy_arn"])
        for key in ("policy", "assume_role_policy"):
            text = item["values"].get(key)
            if text and item["type"] != "aws_ecr_lifecycle_policy":
                statements = json.loads(text)["Statement"]
                found[f"{item['address']}.{key}"] = (
                    statements if isinstance(statements, list) else [statements]
                )
    assert len(found) >= 12
    assert {name.split(":")[4] for name in attached} == {
        ACCOUNT
    }  # no policy of AWS's own, which have wildcards
    return found


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_no_action_has_a_wildcard_and_no_resource_is_everything(
    policies: dict[str, list[dict[str, Any]]],
) -> None:
    looked = 0
    for place, statements in policies.items():
        for statement in statements:
            if statement["Effect"] == "Deny":
                continue  # there, a wildcard widens a refusal
            looked += 1
            assert "NotAction" not in statement, place
            assert "NotResource" not in statement, place
            actions = listed(statement["Action"])
            assert not [action for action in actions if "*" in action or "?" in action], place
            for resource in listed(statement.get("Resource", [])):
                if set(actions) <= NEITHER:
                    assert len(actions) == 1, place
                    assert statement["Condition"], place
                    continue
                # Behind a service, a region or nothing, an account, and a name of ours.
                assert re.fullmatch(r"arn:aws:[a-z0-9-]+:[a-z0-9-]*:\d*:[^*?]+(\*)?", resource), (
                    place,
                    resource,
                )
                named = resource.rstrip("*").split(":", 5)[5]
                scaled = named == "scalable-target/" and statement["Condition"]  # a name of AWS's choice
                assert (
                    "churn" in named
                    or named.startswith(("aws-service-role/", "role/aws-service-role/"))
                    or scaled
                    or ("secret:penstock/" in resource)
                ), (place, resource)
    assert looked >= 20


def test_a_role_is_handed_to_its_service_alone(policies: dict[str, list[dict[str, Any]]]) -> None:
    passing = [
        s for statements in policies.values() for s in statements if "iam:PassRole" in listed(s["Action"])
    ]
    assert passing
    for statement in passing:
        assert statement["Resource"] == f"arn:aws:iam::{ACCOUNT}:role/churn-endpoint"
        assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}


def test_roles_are_assumed_by_whom_they_are_for(policies: dict[str, list[dict[str, Any]]]) -> None:
    trusts = {place.split(".")[1]: s for place, s in policies.items() if place.endswith("assume_role_policy")}
    assert set(trusts) == {"deployer[0]", "endpoint", 'retraining["weekly"]', 'schedule["weekly"]'}
    for name, (statement,) in trusts.items():
        condition = statement["Condition"]["StringEquals"]
        if name == "deployer[0]":
            # Exact, so that neither a fork's nor another branch's job gets in.
            assert condition["token.actions.githubusercontent.com:sub"] == [
                "repo:example/penstock:environment:shadow",
                "repo:example/penstock:environment:production",
            ]
            assert condition["token.actions.githubusercontent.com:aud"] == "sts.amazonaws.com"
        else:
            assert condition == {"aws:SourceAccount": ACCOUNT}
            assert "*" not in json.dumps(statement["Principal"])


def test_the_bucket_refuses_what_is_not_tls(policies: dict[str, list[dict[str, Any]]]) -> None:
    (statements,) = [s for place, s in policies.items() if place.startswith("aws_s3_bucket_policy")]
    assert {s["Effect"] for s in statements} == {"Deny"}
    assert {"Bool": {"aws:SecureTransport": "false"}} in [s["Condition"] for s in statements]
    assert all(len(s["Resource"]) == 2 for s in statements)  # the bucket, and what is in it


# As it is run


def test_names_are_those_that_terraform_gives(first: object, root: Path, view: Aws) -> None:
    names = connected(view).names
    outputs = infrastructure(view, root).outputs()
    assert outputs["bucket"] == names.bucket
    assert outputs["endpoint_role"] == names.role
    assert tuple(outputs["rollback_alarms"]) == names.rollback_alarms
    assert outputs["shadow_alarm"] == names.shadow_alarm


def test_the_state_is_shared_and_locked_away(first: object, root: Path, view: Aws) -> None:
    s3 = connected(view).s3
    assert not infrastructure(view, root).state.exists()
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket="example-terraform")["Contents"]]
    assert keys == ["terraform/churn.tfstate"]  # and no lock that was left
    assert s3.get_bucket_versioning(Bucket="example-terraform")["Status"] == "Enabled"


def test_the_schedule_starts_retraining(first: object, view: Aws) -> None:
    import boto3

    schedule = boto3.client("scheduler", region_name=REGION).get_schedule(Name="churn-retraining")
    assert schedule["ScheduleExpression"] == "cron(0 3 ? * SUN *)"
    assert schedule["Target"]["Arn"] == "arn:aws:scheduler:::aws-sdk:codebuild:startBuild"
    project = json.loads(schedule["Target"]["Input"])["ProjectName"]
    (found,) = boto3.client("codebuild", region_name=REGION).batch_get_projects(names=[project])["projects"]
    assert found["source"]["buildspec"] == "deploy/aws/retraining.yaml"
    assert (REPOSITORY / found["source"]["buildspec"]).is_file()


def test_what_a_killed_run_had_made_was_taken_over(first: subprocess.CompletedProcess[str]) -> None:
    assert "its lock is taken away" in first.stderr
    taken = re.search(r"Apply complete! Resources: (\d+) imported, (\d+) added", first.stdout)
    assert taken is not None
    assert int(taken[1]) >= 5  # roles, registries, log groups, the bucket, …


def test_from_nothing_to_nothing(first: subprocess.CompletedProcess[str], root: Path, view: Aws) -> None:
    """apply → apply → shadow → promote → rollback → destroy."""
    assert "champion" in first.stdout
    again = deploy(root, "apply")
    assert again.returncode == 0, again.stderr
    assert "No changes. Your infrastructure matches the configuration." in again.stdout
    assert "0 added, 0 changed, 0 destroyed" in again.stdout
    assert "nothing to release" in again.stderr

    challenger = root / "models" / "challenger"
    shutil.copytree(root / "models" / "churn", challenger)
    (challenger / "model.onnx").write_bytes(b"another model")
    refused = deploy(root, "apply", "--no-infrastructure", "aws", "model=models/challenger")
    assert refused.returncode == 2
    assert "signature refused" in refused.stderr
    sign(challenger, root / "release.pem")
    shown = deploy(root, "plan", "--no-infrastructure", "aws", "model=models/challenger")
    assert "would be the challenger of" in shown.stdout
    assert deploy(root, "apply", "--no-infrastructure", "aws", "model=models/challenger").returncode == 0
    assert deploy(root, "promote").returncode == 0
    version = re.findall(r"champion\s+(\w+)", deploy(root, "status").stdout)
    assert deploy(root, "rollback").returncode == 0
    back = deploy(root, "status")
    assert back.returncode == 0
    assert version
    assert re.findall(r"champion\s+(\w+)", back.stdout) != version

    kept = deploy(root, "destroy", "--yes")
    assert kept.returncode == 2
    assert "has artefacts, which would be gone for ever" in kept.stderr
    gone = deploy(root, "destroy", "--yes", "--artefacts")
    assert gone.returncode == 0, gone.stdout + gone.stderr
    clients = connected(view)
    assert clients.sagemaker.list_endpoints()["Endpoints"] == []
    assert clients.sagemaker.list_models()["Models"] == []
    assert [item["Name"] for item in clients.s3.list_buckets()["Buckets"]] == ["example-terraform"]
    assert clients.cloudwatch.describe_alarms()["MetricAlarms"] == []


def test_without_terraform_or_an_image_it_is_told(root: Path, cloud: str) -> None:
    nowhere = deploy(root, "plan", "nowhere")
    assert nowhere.returncode == 2
    assert "conf/deploy/nowhere.yaml: there is no such file" in nowhere.stderr
    wrong = deploy(root, "plan", "aws", "update.percent=80")
    assert "update" in wrong.stderr
    assert "less than or equal to 50" in wrong.stderr
