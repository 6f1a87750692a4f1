// The handlers that the conformance suite asks a runtime for, on AWS's Rust client. _HANDLER says which this process has.
use lambda_runtime::streaming::{channel, Body};
use lambda_runtime::{service_fn, Context, Error, FunctionResponse, LambdaEvent, Runtime, StreamResponse};
use serde_json::{json, Value};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{env, process};
use tokio::time::sleep;

type Answer = FunctionResponse<Value, Body>;

static CALLS: AtomicU64 = AtomicU64::new(0);

fn number(event: &Value, key: &str) -> u64 {
    event[key].as_u64().unwrap_or(0)
}

fn lines<'a>(event: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    event[key].as_array().into_iter().flatten().filter_map(Value::as_str)
}

async fn handle(event: LambdaEvent<Value>) -> Result<Answer, Error> {
    let (event, context) = event.into_parts();
    let answer = match env::var("_HANDLER")?.as_str() {
        "echo" => event,
        "error" => return Err(event["message"].as_str().unwrap_or_default().into()),
        "sleep" => {
            sleep(Duration::from_millis(number(&event, "ms"))).await;
            json!(true)
        }
        "exit" => process::exit(number(&event, "code") as i32),
        "big" => json!("x".repeat(number(&event, "bytes") as usize)),
        "stream" => return Ok(FunctionResponse::StreamingResponse(StreamResponse::from(stream(event)))),
        "log" => {
            lines(&event, "lines").for_each(|line| println!("{line}"));
            lines(&event, "errors").for_each(|line| eprintln!("{line}"));
            json!(true)
        }
        "context" => told(context),
        "count" => json!(CALLS.fetch_add(1, Ordering::Relaxed) + 1),
        other => return Err(format!("there is no handler {other}").into()),
    };
    Ok(FunctionResponse::BufferedResponse(answer))
}

fn stream(event: Value) -> Body {
    let (mut sender, body) = channel();
    tokio::spawn(async move {
        let chunk = "x".repeat(number(&event, "bytes") as usize);
        for count in 1..=number(&event, "chunks") {
            if sender.send_data(chunk.clone().into()).await.is_err() {
                return; // nobody reads any more
            }
            if count == number(&event, "fail") {
                sender.abort();
                return;
            }
            sleep(Duration::from_millis(number(&event, "ms"))).await;
        }
    });
    body
}

// Tenants are not told: this client does not know of them.
fn told(context: Context) -> Value {
    json!({
        "requestId": context.request_id,
        "functionArn": context.invoked_function_arn,
        "deadlineMs": context.deadline,
        "traceId": context.xray_trace_id,
        "clientContext": context.client_context.map(|client| json!({"custom": client.custom, "env": client.environment})),
        "identity": context.identity.map(
            |who| json!({"cognitoIdentityId": who.identity_id, "cognitoIdentityPoolId": who.identity_pool_id})),
        "functionName": context.env_config.function_name,
        "functionVersion": context.env_config.version,
        "memoryMB": context.env_config.memory,
        "logGroup": context.env_config.log_group,
        "logStream": context.env_config.log_stream,
    })
}

fn main() -> Result<(), Error> {
    if env::var("_HANDLER").as_deref() == Ok("init_exit") {
        process::exit(7);
    }
    let threads = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    threads.block_on(Runtime::new(service_fn(handle)).run())
}
