output "bucket" {
  description = "Artefacts and the journal of releases."
  value       = aws_s3_bucket.artefacts.id
}

output "endpoint_role" {
  description = "What the endpoint's containers run as."
  value       = aws_iam_role.endpoint.arn
}

output "registries" {
  description = "Where images are pushed."
  value       = { for kind, repository in aws_ecr_repository.image : kind => repository.repository_url }
}

output "rollback_alarms" {
  description = "Alarms that end an update and bring the old model back."
  value       = [aws_cloudwatch_metric_alarm.errors.alarm_name, aws_cloudwatch_metric_alarm.latency.alarm_name]
}

output "shadow_alarm" {
  description = "The alarm that stops a promotion."
  value       = aws_cloudwatch_metric_alarm.shadow.alarm_name
}

output "deployer_role" {
  description = "What the workflow assumes."
  value       = one(aws_iam_role.deployer[*].arn)
}
