// Included by the examples in the documentation: a router over an emulator in this process.

pub use batchwright_core::{BatchHandle, BatchStatus, Message, Request};
pub use batchwright_emulator::{Emulator, EmulatorConfig, Face};
pub use batchwright_provider_openai::OpenAi;
pub use batchwright_router::*;
pub use futures::{StreamExt, TryStreamExt};

pub type Fallible = Result<(), Box<dyn std::error::Error + Send + Sync>>;

#[allow(dead_code)]
pub async fn sandbox() -> Result<(Emulator, BatchRouter), Box<dyn std::error::Error + Send + Sync>> {
    sandbox_with(RouterOptions::for_sandbox()).await
}

#[allow(dead_code)]
pub async fn sandbox_with(
    options: RouterOptions,
) -> Result<(Emulator, BatchRouter), Box<dyn std::error::Error + Send + Sync>> {
    let emulator = Emulator::start(EmulatorConfig::default().with_time_scale(600.0)).await?;
    let openai = OpenAi::builder("no-key")
        .base_url(emulator.base_url(Face::OpenAi))
        .build()?;
    let mut router = BatchRouter::new(options);
    router.register(std::sync::Arc::new(openai))?;
    Ok((emulator, router))
}

#[allow(dead_code)]
pub fn asks(name: &str, rows: usize) -> Vec<Request> {
    let ask = |row| Request::chat(format!("{name}-{row}"), "gpt-4o-mini", [Message::user("Name one.")]);
    (0..rows).map(ask).collect()
}

#[allow(dead_code)]
pub fn colours(rows: usize) -> Vec<Request> {
    asks("colour", rows)
}

#[allow(dead_code)]
pub fn shapes(rows: usize) -> Vec<Request> {
    asks("shape", rows)
}

#[allow(dead_code)]
pub fn block_on(example: impl Future<Output = Fallible>) {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(example).map_err(std::io::Error::other))
        .expect("the example runs");
}
