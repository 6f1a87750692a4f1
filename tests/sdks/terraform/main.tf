# A function with what belongs to it. Its code is app.zip, its layer layer.zip, in the folder where Terraform runs.
variable "endpoint" {
  type = string
}

variable "word" {
  type    = string
  default = "one"
}

provider "aws" {
  region                      = "us-east-1"
  access_key                  = "x"
  secret_key                  = "y"
  max_retries                 = 1
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
  skip_region_validation      = true

  endpoints {
    lambda = var.endpoint
  }
}

resource "aws_lambda_layer_version" "words" {
  layer_name          = "words"
  filename            = "layer.zip"
  source_code_hash    = filebase64sha256("layer.zip")
  compatible_runtimes = ["python3.11"]
  description         = "A word"
  license_info        = "Apache-2.0"
}

resource "aws_lambda_function" "f" {
  function_name                  = "f"
  description                    = "Made by Terraform"
  role                           = "arn:aws:iam::123456789012:role/r"
  runtime                        = "python3.11"
  handler                        = "app.handler"
  architectures                  = ["x86_64"]
  filename                       = "app.zip"
  source_code_hash               = filebase64sha256("app.zip")
  layers                         = [aws_lambda_layer_version.words.arn]
  memory_size                    = 256
  timeout                        = 7
  publish                        = true
  reserved_concurrent_executions = 5

  environment {
    variables = {
      WORD = var.word
    }
  }

  ephemeral_storage {
    size = 1024
  }

  logging_config {
    log_format            = "JSON"
    application_log_level = "DEBUG"
    system_log_level      = "WARN"
  }

  tracing_config {
    mode = "Active"
  }

  tags = {
    word = var.word
    kept = "ü = more"
  }
}

resource "aws_lambda_alias" "live" {
  name             = "live"
  description      = "What is called"
  function_name    = aws_lambda_function.f.function_name
  function_version = aws_lambda_function.f.version
}

resource "aws_lambda_alias" "weighted" {
  name             = "weighted"
  function_name    = aws_lambda_function.f.function_name
  function_version = "1"

  dynamic "routing_config" {
    for_each = aws_lambda_function.f.version == "1" ? [] : [aws_lambda_function.f.version]
    content {
      additional_version_weights = {
        (routing_config.value) = 0.25
      }
    }
  }
}

resource "aws_lambda_permission" "s3" {
  statement_id   = "s3"
  action         = "lambda:InvokeFunction"
  function_name  = aws_lambda_function.f.function_name
  qualifier      = aws_lambda_alias.live.name
  principal      = "s3.amazonaws.com"
  source_arn     = "arn:aws:s3:::bucket"
  source_account = "123456789012"
}

resource "aws_lambda_provisioned_concurrency_config" "live" {
  function_name                     = aws_lambda_function.f.function_name
  qualifier                         = aws_lambda_alias.live.name
  provisioned_concurrent_executions = 1
}

resource "aws_lambda_invocation" "called" {
  function_name = aws_lambda_function.f.function_name
  qualifier     = aws_lambda_alias.live.name
  input         = jsonencode({ called = var.word })
}

data "aws_lambda_function" "found" {
  function_name = aws_lambda_function.f.function_name
  qualifier     = aws_lambda_function.f.version
}

output "version" {
  value = aws_lambda_function.f.version
}

output "answer" {
  value = jsondecode(aws_lambda_invocation.called.result)
}

output "found" {
  value = data.aws_lambda_function.found.qualified_arn
}
