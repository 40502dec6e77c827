//! Ctrl-C once stops sending and saves what is in flight; twice leaves at once.

use crate::{exit::Exit, terminal};
use tokio_util::sync::CancellationToken;

/// Watches for the signals that end a program while `work` runs; the first one cancels `stop`. `at_provider`
/// tells that work goes on at the provider meanwhile.
pub(crate) async fn watch<T>(
    stop: &CancellationToken,
    quiet: bool,
    at_provider: bool,
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    let mut times = 0;
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = signal() => {
                times += 1;
                if times > 1 {
                    // The state on disk is as good as after a crash, which is what the folder is made for.
                    std::process::exit(Exit::Interrupted.code().into());
                }
                stop.cancel();
                if !quiet {
                    terminal::say(if at_provider {
                        "stopping: batches go on at the provider, and are collected when the job goes on; \
                         again to leave at once"
                    } else {
                        "stopping: what is in flight ends and is saved; again to leave at once"
                    });
                }
            }
        }
    }
}

/// Waits for `work` that sends nothing and can be done again; the first signal leaves at once, even where
/// the work is stuck in a write to a pipe that nobody reads.
pub(crate) async fn or_leave<T>(work: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        done = work => done,
        () = signal() => std::process::exit(Exit::Interrupted.code().into()),
    }
}

/// Waits for an interrupt, a termination or a closed terminal.
#[cfg(unix)]
pub(crate) async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut signals = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ]
    .into_iter()
    .filter_map(|kind| signal(kind).ok())
    .collect::<Vec<_>>();
    if signals.is_empty() {
        return std::future::pending().await;
    }
    std::future::poll_fn(|cx| {
        if signals
            .iter_mut()
            .any(|signal| signal.poll_recv(cx).is_ready())
        {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

/// Waits for an interrupt.
#[cfg(not(unix))]
pub(crate) async fn signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
