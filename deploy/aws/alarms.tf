# Alarms that roll an update back (penstock deploy aws names them in each update) and tell people.
# They may be there before the endpoint is: no data is no breach.

resource "aws_sns_topic" "alarms" {
  name = "${var.name}-alarms"
}

data "aws_iam_policy_document" "alarms" {
  statement {
    sid       = "CloudWatchTells"
    actions   = ["sns:Publish"]
    resources = [aws_sns_topic.alarms.arn]

    principals {
      type        = "Service"
      identifiers = ["cloudwatch.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_sns_topic_policy" "alarms" {
  arn    = aws_sns_topic.alarms.arn
  policy = data.aws_iam_policy_document.alarms.json
}

resource "aws_sns_topic_subscription" "alarms" {
  for_each = toset(var.alarms.emails)

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = each.value
}

# Of few invocations one that fails is a large share: the sum has to be over five as well.
resource "aws_cloudwatch_metric_alarm" "errors" {
  alarm_name          = "${var.name}-errors"
  alarm_description   = "More than ${var.alarms.error_share * 100} % of invocations end in 5xx. What to do: docs/deployment.md, section Incidents."
  comparison_operator = "GreaterThanThreshold"
  evaluation_periods  = var.alarms.periods
  threshold           = var.alarms.error_share
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]

  metric_query {
    id          = "share"
    expression  = "IF(failed > 5, failed / invocations, 0)"
    label       = "Share of 5xx"
    return_data = true
  }

  dynamic "metric_query" {
    for_each = { failed = "Invocation5XXErrors", invocations = "Invocations" }

    content {
      id = metric_query.key

      metric {
        namespace   = "AWS/SageMaker"
        metric_name = metric_query.value
        period      = 60
        stat        = "Sum"
        dimensions  = { EndpointName = var.name, VariantName = "production" }
      }
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "latency" {
  alarm_name          = "${var.name}-latency"
  alarm_description   = "99 of 100 answers take longer than ${var.alarms.latency_p99_ms} ms. What to do: docs/deployment.md, section Incidents."
  comparison_operator = "GreaterThanThreshold"
  evaluation_periods  = var.alarms.periods
  threshold           = var.alarms.latency_p99_ms * 1000 # the metric is in microseconds
  treat_missing_data  = "notBreaching"
  namespace           = "AWS/SageMaker"
  metric_name         = "ModelLatency"
  period              = 60
  extended_statistic  = "p99"
  dimensions          = { EndpointName = var.name, VariantName = "production" }
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
}

# A shadow answers nobody; its failures stop its promotion.
resource "aws_cloudwatch_metric_alarm" "shadow" {
  alarm_name          = "${var.name}-shadow-errors"
  alarm_description   = "The challenger fails on mirrored requests and will not be promoted."
  comparison_operator = "GreaterThanThreshold"
  evaluation_periods  = var.alarms.periods
  threshold           = var.alarms.shadow_failures
  treat_missing_data  = "notBreaching"
  namespace           = "AWS/SageMaker"
  metric_name         = "Invocation5XXErrors"
  period              = 60
  statistic           = "Sum"
  dimensions          = { EndpointName = var.name, VariantName = "shadow" }
  alarm_actions       = [aws_sns_topic.alarms.arn]
}

# SageMaker writes here; made before the endpoint, so that logs do not stay for ever.
resource "aws_cloudwatch_log_group" "endpoint" {
  name              = "/aws/sagemaker/Endpoints/${var.name}"
  retention_in_days = var.log_days
}
