terraform {
  required_version = ">= 1.10.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0"
    }
  }

  # Where the state lies is told at `terraform init` by `penstock deploy aws`: a folder of this machine, or a bucket with a
  # lock of its own, as conf/deploy/aws.yaml says. No backend is written here, so that a plain `terraform validate` works.
}

provider "aws" {
  region = var.region

  default_tags {
    tags = {
      project    = var.name
      managed-by = "terraform"
    }
  }
}

data "aws_caller_identity" "here" {}
data "aws_partition" "here" {}

locals {
  account   = data.aws_caller_identity.here.account_id
  partition = data.aws_partition.here.partition
  bucket    = "${var.name}-artefacts-${local.account}-${var.region}"
  sagemaker = "arn:${local.partition}:sagemaker:${var.region}:${local.account}"
}
