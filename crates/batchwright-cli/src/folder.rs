//! Where jobs are kept, and what they are called.

use anyhow::bail;
use batchwright::{
    core::{Error, ErrorKind},
    ledger::Ledger,
    pipeline::JobSpec,
};
use std::{
    hash::Hasher,
    path::{Path, PathBuf},
};

/// The folder of a job.
pub(crate) fn of(state: &Path, job: &str) -> anyhow::Result<PathBuf> {
    let fits = (1..=64).contains(&job.len())
        && job
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && !job.starts_with('.');
    if !fits {
        bail!("a job's name is 1 to 64 of A-Z a-z 0-9 - _ . and does not begin with a dot");
    }
    Ok(state.join(job))
}

/// The folder of a job that must be there.
pub(crate) fn existing(state: &Path, job: &str) -> anyhow::Result<PathBuf> {
    let dir = of(state, job)?;
    if Ledger::is_lost(&dir) {
        let message = format!(
            "the journal of job {job}, ledger.sqlite, is gone, and only it knows what was bought; rebuild it: \
             batchwright recover {job}{}",
            crate::run::state_option(state)
        );
        return Err(Error::new(ErrorKind::Storage, message).into());
    }
    if !Ledger::exists(&dir) {
        bail!(
            "there is no job {job} in {}; `batchwright jobs` lists them",
            state.display()
        );
    }
    Ok(dir)
}

/// A name that the same command gives again, and another command does not: the input's own name, and a
/// hash of everything that decides the requests.
pub(crate) fn name(spec: &JobSpec) -> String {
    let stem = spec
        .input
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    let stem: String = stem
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '_')
        .take(40)
        .collect();
    let stem = if stem.is_empty() {
        "job".to_owned()
    } else {
        stem
    };
    let json = serde_json::to_vec(spec).unwrap_or_default();
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    hash.write(&json);
    format!(
        "{stem}-{:08x}",
        hash.finish() >> 32 ^ hash.finish() & 0xffff_ffff
    )
}

/// FNV-1a, which unlike the standard hasher is the same in every release.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright::core::Lane;

    #[test]
    fn f_198_a_name_never_leaves_the_folder() {
        for name in ["", "..", "a/b", "/etc", ".hidden", "a b", "a\0b", "C:x"] {
            assert!(of(Path::new("state"), name).is_err(), "{name:?}");
        }
        assert_eq!(
            of(Path::new("state"), "reviews-1").unwrap(),
            Path::new("state/reviews-1")
        );
    }

    #[test]
    fn the_same_settings_give_the_same_name_and_others_another() {
        let spec = JobSpec::new("/data/my reviews.csv", "openai", Lane::Batch);
        assert_eq!(name(&spec), name(&spec.clone()));
        assert!(name(&spec).starts_with("myreviews-"));
        assert!(of(Path::new("s"), &name(&spec)).is_ok());
        assert_ne!(name(&spec), name(&spec.clone().with_prompt("x")));
    }
}
