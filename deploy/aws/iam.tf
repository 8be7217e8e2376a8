# Least privilege. No action has a wildcard. A resource has one only behind a named bucket, repository, log group or a name
# of ours; for the two actions that AWS lets nobody narrow (registry token, putting metrics) it is "*", each by itself and
# under a condition. tests/penstock/deploy/test_aws_policies.py reads the plan and holds all of this.

# What the endpoint's containers run as.
data "aws_iam_policy_document" "endpoint_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["sagemaker.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_iam_role" "endpoint" {
  name               = "${var.name}-endpoint"
  assume_role_policy = data.aws_iam_policy_document.endpoint_trust.json
}

data "aws_iam_policy_document" "endpoint" {
  statement {
    sid       = "ReadArtefacts"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.artefacts.arn}/artefacts/*"]
  }

  statement {
    sid       = "FindArtefacts"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.artefacts.arn]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["artefacts/*"]
    }
  }

  statement {
    sid       = "PullImage"
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = [aws_ecr_repository.image["predictor"].arn]
  }

  statement {
    sid       = "RegistryToken"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"] # AWS defines no resource for this action

    condition {
      test     = "StringEquals"
      variable = "aws:RequestedRegion"
      values   = [var.region]
    }
  }

  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.endpoint.arn}:log-stream:*"]
  }

  statement {
    sid       = "Measure"
    actions   = ["cloudwatch:PutMetricData"]
    resources = ["*"] # AWS defines no resource for this action

    condition {
      test     = "StringEquals"
      variable = "cloudwatch:namespace"
      values   = ["/aws/sagemaker/Endpoints"]
    }
  }
}

resource "aws_iam_role_policy" "endpoint" {
  name   = "endpoint"
  role   = aws_iam_role.endpoint.id
  policy = data.aws_iam_policy_document.endpoint.json
}

# What a release does, and nothing else: for the workflow and for retraining, which ends in a shadow.
data "aws_iam_policy_document" "release" {
  statement {
    sid       = "PutArtefacts"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = ["${aws_s3_bucket.artefacts.arn}/artefacts/*", "${aws_s3_bucket.artefacts.arn}/releases/*"]
  }

  statement {
    sid       = "FindArtefacts"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.artefacts.arn]
  }

  statement {
    sid = "Release"
    actions = [
      "sagemaker:AddTags",
      "sagemaker:CreateEndpoint",
      "sagemaker:CreateEndpointConfig",
      "sagemaker:CreateModel",
      "sagemaker:DescribeEndpoint",
      "sagemaker:DescribeEndpointConfig",
      "sagemaker:DescribeModel",
      "sagemaker:UpdateEndpoint",
    ]
    # Names of models and configurations end in what they are made of.
    resources = [
      "${local.sagemaker}:endpoint/${var.name}",
      "${local.sagemaker}:endpoint-config/${var.name}-*",
      "${local.sagemaker}:model/${var.name}-*",
    ]
  }

  statement {
    sid       = "HandOverRole"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.endpoint.arn]

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["sagemaker.amazonaws.com"]
    }
  }

  statement {
    sid     = "LookAtAlarms"
    actions = ["cloudwatch:DescribeAlarms"]
    resources = [
      aws_cloudwatch_metric_alarm.errors.arn,
      aws_cloudwatch_metric_alarm.latency.arn,
      aws_cloudwatch_metric_alarm.shadow.arn,
    ]
  }

  statement {
    sid = "Scale"
    actions = [
      "application-autoscaling:PutScalingPolicy",
      "application-autoscaling:RegisterScalableTarget",
    ]
    # The identifier of a target is AWS's choice.
    resources = ["arn:${local.partition}:application-autoscaling:${var.region}:${local.account}:scalable-target/*"]

    condition {
      test     = "StringEquals"
      variable = "application-autoscaling:service-namespace"
      values   = ["sagemaker"]
    }
  }

  statement {
    sid       = "ScaleOnceForTheAccount"
    actions   = ["iam:CreateServiceLinkedRole"]
    resources = ["arn:${local.partition}:iam::${local.account}:role/aws-service-role/sagemaker.application-autoscaling.amazonaws.com/AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"]

    condition {
      test     = "StringEquals"
      variable = "iam:AWSServiceName"
      values   = ["sagemaker.application-autoscaling.amazonaws.com"]
    }
  }
}

resource "aws_iam_policy" "release" {
  name        = "${var.name}-release"
  description = "Release a model to the endpoint ${var.name}."
  policy      = data.aws_iam_policy_document.release.json
}

# The workflow, by OpenID Connect: there is no key that could leak.
resource "aws_iam_openid_connect_provider" "github" {
  count = var.deployer == null ? 0 : 1

  url            = "https://token.actions.githubusercontent.com"
  client_id_list = ["sts.amazonaws.com"]
}

data "aws_iam_policy_document" "deployer_trust" {
  count = var.deployer == null ? 0 : 1

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [aws_iam_openid_connect_provider.github[0].arn]
    }

    condition {
      test     = "StringEquals"
      variable = "token.actions.githubusercontent.com:aud"
      values   = ["sts.amazonaws.com"]
    }

    # Jobs of these environments alone, so that a gate of theirs cannot be walked around.
    condition {
      test     = "StringEquals"
      variable = "token.actions.githubusercontent.com:sub"
      values   = [for name in var.deployer.environments : "repo:${var.deployer.repository}:environment:${name}"]
    }
  }
}

resource "aws_iam_role" "deployer" {
  count = var.deployer == null ? 0 : 1

  name                 = "${var.name}-deployer"
  assume_role_policy   = data.aws_iam_policy_document.deployer_trust[0].json
  max_session_duration = 10800 # a linear update with its waits
}

resource "aws_iam_role_policy_attachment" "deployer_release" {
  count = var.deployer == null ? 0 : 1

  role       = aws_iam_role.deployer[0].name
  policy_arn = aws_iam_policy.release.arn
}

data "aws_iam_policy_document" "push" {
  statement {
    sid       = "PullArtefacts"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.artefacts.arn}/dvc/*"]
  }

  statement {
    sid = "PushImages"
    actions = [
      "ecr:BatchCheckLayerAvailability",
      "ecr:BatchGetImage",
      "ecr:CompleteLayerUpload",
      "ecr:DescribeImages",
      "ecr:GetDownloadUrlForLayer",
      "ecr:InitiateLayerUpload",
      "ecr:PutImage",
      "ecr:UploadLayerPart",
    ]
    resources = [for repository in aws_ecr_repository.image : repository.arn]
  }

  statement {
    sid       = "RegistryToken"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"] # AWS defines no resource for this action

    condition {
      test     = "StringEquals"
      variable = "aws:RequestedRegion"
      values   = [var.region]
    }
  }
}

resource "aws_iam_role_policy" "deployer_push" {
  count = var.deployer == null ? 0 : 1

  name   = "push"
  role   = aws_iam_role.deployer[0].id
  policy = data.aws_iam_policy_document.push.json
}
