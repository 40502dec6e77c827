//! Serves the emulator until Ctrl-C, for clients in other languages.
//!
//! `cargo run -p batchwright-emulator --example serve -- [ADDRESS] [DATA_DIR]`
//!
//! ADDRESS defaults to `127.0.0.1:4711`; without DATA_DIR nothing survives the end. The first line on standard output
//! is the base URL.
#![expect(
    clippy::print_stdout,
    reason = "the URL is what this program is asked for"
)]

use std::error::Error;
use std::net::SocketAddr;

use batchwright_emulator::{Emulator, EmulatorConfig, Face};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let listen: SocketAddr = arguments
        .next()
        .as_deref()
        .unwrap_or("127.0.0.1:4711")
        .parse()?;
    let mut config = EmulatorConfig::default().with_listen(listen);
    if let Some(dir) = arguments.next() {
        config = config.with_data_dir(dir);
    }
    let emulator = Emulator::start(config).await?;
    println!("{}", emulator.base_url(Face::OpenAi));
    tokio::signal::ctrl_c().await?;
    emulator.shutdown().await;
    Ok(())
}
