//! Chunks that have ended and of which a given-up attempt may still show: looked at now and then as long as the drive
//! runs anyway, and once more at its end.

use super::{ChunkJob, Driver, lock};
use crate::submission::Submission;
use batchwright_core::{BatchProvider, Result};
use std::{mem, sync::Arc};

/// A chunk that has ended.
pub(super) struct Ended {
    pub(super) job: ChunkJob,
    pub(super) provider: Arc<dyn BatchProvider>,
    pub(super) machine: Submission,
}

impl Driver {
    /// Keeps the chunk in view where one of its attempts was given up.
    pub(super) fn keep_in_view(&self, ended: Ended) {
        if ended.machine.ghosts_until(self.now()).is_some() {
            lock(&self.lingering).push(ended);
        }
    }

    /// Looks at the chunks in view until every other one has ended, and then once more.
    pub(super) async fn linger(&self) -> Result<()> {
        loop {
            let is_last = tokio::select! {
                () = tokio::time::sleep(self.options.ghost_interval) => false,
                () = self.all_ended.cancelled() => true,
                () = self.control.stop.cancelled() => return Ok(()),
            };
            let in_view = mem::take(&mut *lock(&self.lingering));
            for mut ended in in_view {
                ended.machine.look_again();
                self.work(&ended.job, &mut ended.machine, &ended.provider)
                    .await?;
                self.keep_in_view(ended);
            }
            if is_last {
                return Ok(());
            }
        }
    }
}
