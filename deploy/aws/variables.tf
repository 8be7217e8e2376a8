# Values come from conf/deploy/aws.yaml by way of `penstock deploy aws`, which writes them as JSON beside the state.

variable "name" {
  description = "Of the endpoint; everything else is named after it."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9]*(-[a-z0-9]+)*$", var.name)) && length(var.name) <= 24
    error_message = "Small letters, digits and single hyphens, at most 24 characters: names of buckets and models are made of it."
  }
}

variable "region" {
  description = "Where everything is."
  type        = string
}

variable "log_days" {
  description = "How long CloudWatch keeps logs."
  type        = number
  default     = 90
}

variable "artefact_days" {
  description = "How long versions of objects that were overwritten or deleted are kept."
  type        = number
  default     = 180
}

variable "empty_bucket" {
  description = "Whether `terraform destroy` may remove a bucket that still has artefacts. Set by `destroy --artefacts` alone."
  type        = bool
  default     = false
}

variable "alarms" {
  description = "When an update is rolled back and people are told."
  type = object({
    error_share     = number # of invocations in a minute that end in 5xx
    latency_p99_ms  = number # of the container
    periods         = number # minutes in a row
    emails          = list(string)
    shadow_failures = number # 5xx of the shadow in a minute
  })
}

variable "retraining" {
  description = "When the graph is run again, and in what. Null: never."
  type = object({
    schedule    = string # cron(…) or rate(…), of EventBridge Scheduler
    timezone    = string
    repository  = string # https://github.com/OWNER/NAME.git
    image       = string # of the trainer, by digest
    compute     = string
    hours       = number # after which it is ended
    signing_key = string # ARN of a secret of Secrets Manager that holds the private key
  })
  default = null
}

variable "deployer" {
  description = "Who may release from a workflow, by OpenID Connect and without a stored key. Null: nobody."
  type = object({
    repository   = string       # OWNER/NAME
    environments = list(string) # of GitHub, which hold the gates
  })
  default = null
}
