# The graph, run again on fresh data by a schedule; what comes out is signed and becomes the shadow, never more.

locals {
  retraining = var.retraining == null ? {} : { weekly = var.retraining }
}

resource "aws_cloudwatch_log_group" "retraining" {
  for_each = local.retraining

  name              = "/aws/codebuild/${var.name}-retraining"
  retention_in_days = var.log_days
}

data "aws_iam_policy_document" "retraining_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["codebuild.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_iam_role" "retraining" {
  for_each = local.retraining

  name               = "${var.name}-retraining"
  assume_role_policy = data.aws_iam_policy_document.retraining_trust.json
}

data "aws_iam_policy_document" "retraining" {
  for_each = local.retraining

  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.retraining[each.key].arn}:log-stream:*"]
  }

  statement {
    sid       = "KeepData"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = ["${aws_s3_bucket.artefacts.arn}/dvc/*"]
  }

  statement {
    sid       = "PullImage"
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = [aws_ecr_repository.image["trainer"].arn]
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
    sid       = "Sign"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [each.value.signing_key]
  }
}

resource "aws_iam_role_policy" "retraining" {
  for_each = local.retraining

  name   = "retraining"
  role   = aws_iam_role.retraining[each.key].id
  policy = data.aws_iam_policy_document.retraining[each.key].json
}

resource "aws_iam_role_policy_attachment" "retraining_release" {
  for_each = local.retraining

  role       = aws_iam_role.retraining[each.key].name
  policy_arn = aws_iam_policy.release.arn
}

resource "aws_codebuild_project" "retraining" {
  for_each = local.retraining

  name          = "${var.name}-retraining"
  description   = "dvc repro on fresh data; the artefact is signed and deployed as a shadow"
  service_role  = aws_iam_role.retraining[each.key].arn
  build_timeout = each.value.hours * 60

  source {
    type            = "GITHUB"
    location        = each.value.repository
    git_clone_depth = 1
    buildspec       = "deploy/aws/retraining.yaml"
  }

  artifacts {
    type = "NO_ARTIFACTS"
  }

  environment {
    type                        = "LINUX_CONTAINER"
    image                       = each.value.image
    image_pull_credentials_type = "SERVICE_ROLE"
    compute_type                = each.value.compute

    environment_variable {
      name  = "BUCKET"
      value = aws_s3_bucket.artefacts.id
    }

    environment_variable {
      name  = "SIGNING_KEY"
      type  = "SECRETS_MANAGER"
      value = each.value.signing_key
    }
  }

  logs_config {
    cloudwatch_logs {
      group_name = aws_cloudwatch_log_group.retraining[each.key].name
    }
  }
}

data "aws_iam_policy_document" "schedule_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["scheduler.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_iam_role" "schedule" {
  for_each = local.retraining

  name               = "${var.name}-schedule"
  assume_role_policy = data.aws_iam_policy_document.schedule_trust.json
}

data "aws_iam_policy_document" "schedule" {
  for_each = local.retraining

  statement {
    sid       = "Start"
    actions   = ["codebuild:StartBuild"]
    resources = [aws_codebuild_project.retraining[each.key].arn]
  }
}

resource "aws_iam_role_policy" "schedule" {
  for_each = local.retraining

  name   = "start"
  role   = aws_iam_role.schedule[each.key].id
  policy = data.aws_iam_policy_document.schedule[each.key].json
}

resource "aws_scheduler_schedule" "retraining" {
  for_each = local.retraining

  name                         = "${var.name}-retraining"
  description                  = "Preventive maintenance: the model is trained anew"
  schedule_expression          = each.value.schedule
  schedule_expression_timezone = each.value.timezone

  flexible_time_window {
    mode                      = "FLEXIBLE"
    maximum_window_in_minutes = 30
  }

  target {
    arn      = "arn:${local.partition}:scheduler:::aws-sdk:codebuild:startBuild"
    role_arn = aws_iam_role.schedule[each.key].arn
    input    = jsonencode({ ProjectName = aws_codebuild_project.retraining[each.key].name })

    retry_policy {
      maximum_retry_attempts       = 3
      maximum_event_age_in_seconds = 3600
    }
  }
}
