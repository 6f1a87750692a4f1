// An extension on AWS's own crate for them. It prints what it is told, each event and each batch as a line of JSON.
// RECORDER_API: telemetry (the default), logs, or anything else for neither; RECORDER_BUFFERS: their timeoutMs (25).
// RECORDER_FAILS: the event that it fails at. RECORDER_STAYS: the milliseconds that it takes at SHUTDOWN before it exits (0).
use lambda_extension::{
    service_fn, Error, Extension, LambdaEvent, LambdaLog, LambdaTelemetry, LogBuffering, NextEvent, SharedService,
};
use serde_json::{json, Value};
use std::{env, process, time::Duration};

fn number(name: &str, default: usize) -> usize {
    env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

async fn event(event: LambdaEvent) -> Result<(), Error> {
    let (name, told) = match event.next {
        NextEvent::Invoke(e) => ("INVOKE", json!([e.request_id, e.deadline_ms, e.invoked_function_arn, e.tracing.value])),
        NextEvent::Shutdown(e) => ("SHUTDOWN", json!([e.shutdown_reason, e.deadline_ms])),
    };
    println!("{}", json!({ "event": name, "told": told }));
    if env::var("RECORDER_FAILS").is_ok_and(|value| value == name) {
        return Err("Recorder.BadLuck".into());
    }
    if name == "SHUTDOWN" {
        tokio::time::sleep(Duration::from_millis(number("RECORDER_STAYS", 0) as u64)).await;
        process::exit(0);
    }
    Ok(())
}

async fn telemetry(batch: Vec<LambdaTelemetry<Value>>) -> Result<(), Error> {
    println!("{}", json!({ "telemetry": batch }));
    Ok(())
}

async fn logs(batch: Vec<LambdaLog>) -> Result<(), Error> {
    let records: Vec<String> = batch.iter().map(|log| format!("{:?}", log.record)).collect();
    println!("{}", json!({ "logs": records }));
    Ok(())
}

fn main() -> Result<(), Error> {
    let threads = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let api = env::var("RECORDER_API").unwrap_or("telemetry".into());
    let buffering = LogBuffering { timeout_ms: number("RECORDER_BUFFERS", 25), ..LogBuffering::default() };
    let base = Extension::new()
        .with_telemetry_record_type::<Value>()
        .with_events_processor(service_fn(event))
        .with_log_buffering(buffering)
        .with_telemetry_buffering(buffering);
    threads.block_on(async {
        match api.as_str() {
            "telemetry" => base.with_telemetry_processor(SharedService::new(service_fn(telemetry))).run().await,
            "logs" => base.with_logs_processor(SharedService::new(service_fn(logs))).run().await,
            _ => base.run().await,
        }
    })
}
