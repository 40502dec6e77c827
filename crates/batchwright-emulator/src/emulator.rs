//! A running emulator.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::config::EmulatorConfig;
use crate::connection::{Connection, Door};
use crate::control;
use crate::engine::{Engine, TICK};
use crate::error::{EmulatorError, Result};
use crate::face::Face;
use crate::faults::FaultRule;
use crate::invoice::InvoiceLine;
use crate::server;

/// A running emulator; it stops when it is shut down or dropped.
#[derive(Debug)]
pub struct Emulator {
    addr: SocketAddr,
    engine: Arc<Engine>,
    tasks: TaskTracker,
    closing: DropGuard,
}

impl Emulator {
    /// Opens the data folder, binds the address, and serves from the tokio runtime it is called on.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::Listen`] when the address cannot be bound; [`EmulatorError::Data`] or
    /// [`EmulatorError::Record`] when the data folder cannot be used.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left running when the future is dropped.
    pub async fn start(config: EmulatorConfig) -> Result<Self> {
        let addr = config.listen;
        let listen = |source| EmulatorError::Listen { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(listen)?;
        let addr = listener.local_addr().map_err(listen)?;
        let engine = Arc::new(Engine::open(config)?);
        let closing = CancellationToken::new();
        let tasks = TaskTracker::new();
        let door = Door {
            listener,
            engine: Arc::clone(&engine),
            closing: closing.clone(),
        };
        let service =
            server::router(Arc::clone(&engine)).into_make_service_with_connect_info::<Connection>();
        let server =
            axum::serve(door, service).with_graceful_shutdown(closing.clone().cancelled_owned());
        tasks.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the emulator's listener failed");
            }
        });
        tasks.spawn(tick(Arc::clone(&engine), closing.clone()));
        Ok(Self {
            addr,
            engine,
            tasks,
            closing: closing.drop_guard(),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base URL of a face, for example `http://127.0.0.1:4711/openai/v1`.
    #[must_use]
    pub fn base_url(&self, face: Face) -> String {
        format!("http://{}{}", self.addr, face.base_path())
    }

    /// The URL of the control endpoints, for example `http://127.0.0.1:4711/emulator`.
    #[must_use]
    pub fn control_url(&self) -> String {
        format!("http://{}/emulator", self.addr)
    }

    /// The folder that files, batches and the invoice are in.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.engine.dir()
    }

    /// The virtual time, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.engine.clock.now_ms()
    }

    /// Moves the virtual clock; returns when everything that became due has happened.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::Data`] when a batch could not be executed for want of disk.
    ///
    /// # Cancel safety
    ///
    /// When dropped the clock may have moved in part; batches are brought up to it later.
    pub async fn advance(&self, by: Duration) -> Result<()> {
        control::advance(&self.engine, by)
            .await
            .map_err(|source| self.data_error(source))
    }

    /// Puts fault rules behind those in force.
    pub fn add_faults(&self, rules: Vec<FaultRule>) {
        self.engine.faults.add(rules, false);
    }

    /// Removes all fault rules.
    pub fn clear_faults(&self) {
        self.engine.faults.clear();
    }

    /// Every line of the invoice up to now: first the realtime lane in order, then batch by batch.
    ///
    /// Holds the lines in memory; for large runs read `GET /emulator/invoice` as a stream.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::Data`] when the invoice cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Reads only.
    pub async fn invoice(&self) -> Result<Vec<InvoiceLine>> {
        let engine = Arc::clone(&self.engine);
        control::block(move || {
            engine.settle(true)?;
            let mut lines = Vec::new();
            engine.each_invoice_line(|line| lines.push(line))?;
            Ok(lines)
        })
        .await
        .map_err(|source| self.data_error(source))
    }

    /// How often a route was called, whatever came of it, for example `POST` and
    /// `/openai/v1/batches/{batch_id}/cancel`.
    #[must_use]
    pub fn calls(&self, method: &str, route: &str) -> u64 {
        self.engine.traffic.calls(method, route)
    }

    /// The most requests that were open at once.
    #[must_use]
    pub fn peak_in_flight(&self) -> u64 {
        self.engine.traffic.in_flight.peak()
    }

    /// Stops listening, closes all connections and waits for the end of what runs.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the emulator all the same, without waiting.
    pub async fn shutdown(self) {
        drop(self.closing.disarm().drop_guard());
        self.tasks.close();
        self.tasks.wait().await;
        if let Err(error) = self.engine.save() {
            tracing::warn!(%error, "could not save the emulator's clock");
        }
    }

    fn data_error(&self, source: io::Error) -> EmulatorError {
        EmulatorError::Data {
            path: self.engine.dir().to_path_buf(),
            source,
        }
    }
}

/// Lets batches and late calls follow the running clock, and saves the clock.
async fn tick(engine: Arc<Engine>, closing: CancellationToken) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut turn: u32 = 0;
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if engine.clock.scale() == 0.0 {
            continue;
        }
        server::run_late_calls(&engine).await;
        let settled = if engine.batches.has_active() {
            control::settle(&engine, false).await
        } else {
            Ok(())
        };
        turn = turn.wrapping_add(1);
        let saved = if turn.is_multiple_of(25) {
            engine.save()
        } else {
            Ok(())
        };
        if let Err(error) = settled.and(saved) {
            tracing::error!(%error, "the emulator could not go on with its batches");
        }
    }
}
