// A function that wants SIGTERM, on AWS's Rust client: the client registers an internal extension for that. It echoes.
use lambda_runtime::{service_fn, spawn_graceful_shutdown_handler, Error, LambdaEvent, Runtime};
use serde_json::Value;

async fn handle(event: LambdaEvent<Value>) -> Result<Value, Error> {
    Ok(event.payload)
}

fn main() -> Result<(), Error> {
    let threads = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    threads.block_on(async {
        spawn_graceful_shutdown_handler(|| async { println!("told to end") }).await;
        Runtime::new(service_fn(handle)).run().await
    })
}
