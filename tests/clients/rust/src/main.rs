// The function that the tests run on AWS's Rust client. The event says what to do; anything else comes back.
use lambda_runtime::streaming::{channel, Body};
use lambda_runtime::{service_fn, Error, FunctionResponse, LambdaEvent, Runtime, StreamResponse};
use serde_json::{json, Value};
use std::time::{Duration, UNIX_EPOCH};
use std::{env, path::Path, process};
use tokio::time::sleep;

type Answer = FunctionResponse<Value, Body>;

async fn handle(event: LambdaEvent<Value>) -> Result<Answer, Error> {
    let (wish, context) = event.into_parts();
    let text = wish["text"].as_str().unwrap_or_default().to_owned();
    let answer = match wish["do"].as_str() {
        Some("fail") => return Err(text.into()),
        Some("panic") => panic!("{text}"),
        Some("sleep") => {
            eprintln!("asleep");
            sleep(Duration::from_secs(60)).await;
            Value::Null
        }
        Some("exit") => process::exit(wish["status"].as_i64().unwrap_or(0) as i32),
        Some("large") => Value::String("x".repeat(wish["size"].as_u64().unwrap_or(2) as usize - 2)),
        Some("pid") => json!(process::id()),
        Some("child") => json!([process::id(), process::Command::new("sleep").arg("1000").spawn()?.id()]),
        Some("log") => {
            eprintln!("{text}");
            Value::Null
        }
        Some("context") => json!({
            "client": context.client_context.map(|c| json!([c.client.app_title, c.custom, c.environment])),
            "identity": context.identity.map(|i| json!([i.identity_id, i.identity_pool_id])),
            "arn": context.invoked_function_arn,
            "id": context.request_id,
            "trace": env::var("_X_AMZN_TRACE_ID").ok(),
            "left": context.deadline as i64 - UNIX_EPOCH.elapsed()?.as_millis() as i64,
        }),
        Some("stream") => return Ok(FunctionResponse::StreamingResponse(StreamResponse::from(pieces(wish)))),
        _ => wish,
    };
    Ok(FunctionResponse::BufferedResponse(answer))
}

// An answer that comes in two, the second one when there is a file "go"; or an error in its place.
fn pieces(wish: Value) -> Body {
    let (mut sender, body) = channel();
    tokio::spawn(async move {
        let _ = sender.send_data("first".into()).await;
        while !Path::new("go").exists() {
            sleep(Duration::from_millis(2)).await;
        }
        if wish["fail"] == true {
            sender.abort();
        } else {
            let _ = sender.send_data("second".into()).await;
        }
    });
    body
}

fn main() -> Result<(), Error> {
    if env::var("INIT").is_ok_and(|value| value == "fail") {
        return Err("no start".into());
    }
    let threads = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    threads.block_on(Runtime::new(service_fn(handle)).run())
}
