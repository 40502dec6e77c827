//! What the closed segments of a job come to, kept beside them so that a job of millions of rows is opened in seconds.
//!
//! It is a copy of what the segments say and nothing else: where it is not there, does not read well, or a segment was
//! touched since, the segments are read.

use crate::{
    files::{self, Access, Sha256, TempFile},
    journal::SealedSegment,
    ledger::Ledger,
    rows::RowSet,
    scan::Progress,
    segment::SegmentName,
};
use batchwright_core::Result;
use serde::{Deserialize, Serialize};
use std::{fs, io::Read as _, path::Path, time::UNIX_EPOCH};

pub(crate) const FILE: &str = "checkpoint";
const VERSION: u32 = 1;
/// Bytes of closed segments for which a new one is worth its while.
pub(crate) const WORTH_BYTES: u64 = if cfg!(test) { 1 } else { 64 * 1024 * 1024 };
const SHA_DIGITS: usize = 64;

/// A segment as it was when it was read.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Covered {
    epoch: u64,
    number: u32,
    bytes: u64,
    sha256: String,
    /// Nanoseconds since 1970. Whoever edits the file changes it.
    modified: u128,
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    covered: Vec<Covered>,
    progress: Progress,
    sets: usize,
}

/// How many segments are covered, and what they come to.
pub(crate) fn load(
    ledger: &Ledger,
    names: &[SegmentName],
    sealed: &[SealedSegment],
) -> Option<(usize, Progress)> {
    let path = ledger.folder().join(FILE);
    let mut bytes = Vec::new();
    files::open(&path, Access::Read)
        .ok()?
        .read_to_end(&mut bytes)
        .ok()?;
    let content = bytes.len().checked_sub(SHA_DIGITS)?;
    let (content, sum) = bytes.split_at(content);
    let mut sha = Sha256::new();
    sha.update(content);
    if sha.hex().as_bytes() != sum {
        return None;
    }
    let end = memchr::memchr(b'\n', content)?;
    let header: Header = serde_json::from_slice(&content[..end]).ok()?;
    if header.version != VERSION || header.covered.len() > names.len() {
        return None;
    }
    for (name, covered) in names.iter().zip(&header.covered) {
        if describe(ledger.folder(), *name, sealed)? != *covered {
            return None;
        }
    }
    let mut rest = &content[end + 1..];
    let mut sets = Vec::with_capacity(header.sets);
    for _ in 0..header.sets {
        sets.push(RowSet::read(&mut rest)?);
    }
    let mut progress = header.progress;
    progress.set_rows(sets)?;
    Some((header.covered.len(), progress))
}

/// Keeps what the first `count` segments come to; nothing where one of them is not closed.
pub(crate) fn store(
    ledger: &Ledger,
    names: &[SegmentName],
    sealed: &[SealedSegment],
    progress: &Progress,
) -> Result<()> {
    let covered = names
        .iter()
        .map(|name| describe(ledger.folder(), *name, sealed))
        .collect::<Option<Vec<Covered>>>();
    let Some(covered) = covered else {
        return Ok(());
    };
    let sets = progress.rows();
    let header = Header {
        version: VERSION,
        covered,
        progress: progress.without_rows(),
        sets: sets.len(),
    };
    let mut file = TempFile::create(ledger.folder().join(FILE))?;
    let mut sha = Sha256::new();
    let mut piece = serde_json::to_vec(&header).expect("it is plain data");
    piece.push(b'\n');
    sha.update(&piece);
    file.write(&piece)?;
    for set in sets {
        piece.clear();
        set.write(&mut piece);
        sha.update(&piece);
        file.write(&piece)?;
    }
    file.write(sha.hex().as_bytes())?;
    file.commit()?;
    Ok(())
}

/// A closed segment as it is now.
fn describe(folder: &Path, name: SegmentName, sealed: &[SealedSegment]) -> Option<Covered> {
    let place = sealed.binary_search_by_key(&(name.epoch, name.number), |it| (it.epoch, it.number));
    let known = &sealed[place.ok()?];
    let metadata = fs::symlink_metadata(name.path(folder)).ok()?;
    let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    (metadata.len() == known.bytes).then(|| Covered {
        epoch: known.epoch,
        number: known.number,
        bytes: known.bytes,
        sha256: known.sha256.clone(),
        modified: modified.as_nanos(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{record::OutcomeRecord, scan::Scan, segment::Segments};
    use batchwright_core::{Ending, Error, ErrorKind, Lane, Money, Outcome, Response, Usage};

    fn line(row: u64, success: bool, lane: Lane) -> Vec<u8> {
        let ending = if success {
            let mut response = Response::from_text("yes");
            response.usage = Usage::of(3, 1);
            Ending::Succeeded(response)
        } else {
            Ending::Failed(Error::new(ErrorKind::InvalidRequest, "no"))
        };
        let mut outcome = Outcome::new("", ending);
        outcome.provenance.lane = Some(lane);
        outcome.provenance.cost = Some(Money::from_picodollars(100 + row));
        outcome.provenance.possibly_paid_attempts = u32::from(row == 4);
        let mut line = Vec::new();
        OutcomeRecord::write(row, "id", &outcome, false, &mut line);
        line
    }

    /// Everything a scan says.
    fn told(scan: &Scan) -> String {
        let sets = [
            &scan.finished,
            &scan.answered,
            &scan.duplicated,
            &scan.direct,
        ];
        let sets = sets.map(|set| set.iter().collect::<Vec<_>>());
        format!("{sets:?} {scan:?}")
    }

    fn is_loaded(ledger: &Ledger) -> Option<usize> {
        let segments = Segments::of(ledger).unwrap();
        load(ledger, segments.names(), segments.sealed()).map(|(covered, _)| covered)
    }

    #[tokio::test]
    async fn it_says_what_the_segments_say_and_is_not_used_once_one_was_touched() {
        let dir = tempfile::tempdir().unwrap();
        let runs: [&[(u64, bool, Lane)]; 5] = [
            &[
                (0, true, Lane::Batch),
                (1, false, Lane::Batch),
                (4, true, Lane::Realtime),
            ],
            // A success takes the place of a failure, and a second success does not.
            &[
                (1, true, Lane::Batch),
                (0, true, Lane::Batch),
                (70_000, false, Lane::Batch),
            ],
            &[(2, false, Lane::Batch)],
            &[(2, false, Lane::Batch), (5, true, Lane::Realtime)],
            &[(2, true, Lane::Batch), (9, true, Lane::Batch)],
        ];
        for (number, run) in (0_usize..).zip(runs) {
            let ledger = Ledger::open(dir.path()).unwrap();
            let log = ledger.outcome_log().unwrap();
            log.intent(100 + number as u64, 1).await.unwrap();
            for (row, success, lane) in run {
                log.append(line(*row, *success, *lane)).await.unwrap();
            }
            let (reopening, again) = (log.clone(), number >= 2);
            tokio::task::spawn_blocking(move || {
                reopening.lost_blocking(number as u32 % 2, [1, 2]).unwrap();
                reopening.reopen_blocking(again.then_some(2)).unwrap();
            })
            .await
            .unwrap();
            log.finish().await.unwrap();
            let all = told(&Scan::run_all(&ledger).unwrap());
            assert_eq!(is_loaded(&ledger), (number > 0).then_some(number));
            assert_eq!(told(&Scan::run(&ledger).unwrap()), all, "run {number}");
            assert_eq!(is_loaded(&ledger), Some(number + 1));
            assert_eq!(
                told(&Scan::run(&ledger).unwrap()),
                all,
                "run {number}, again"
            );
        }
        let ledger = Ledger::open(dir.path()).unwrap();
        let all = told(&Scan::run_all(&ledger).unwrap());
        let segment = dir.path().join("segments/000002-0001.jsonl");
        let content = fs::read(&segment).unwrap();
        fs::write(&segment, content).unwrap();
        assert_eq!(is_loaded(&ledger), None, "a segment was touched");
        assert_eq!(told(&Scan::run(&ledger).unwrap()), all);
        assert!(is_loaded(&ledger).is_some(), "and summed up anew");
        let kept = dir.path().join(FILE);
        let mut damaged = fs::read(&kept).unwrap();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        fs::write(&kept, damaged).unwrap();
        assert_eq!(is_loaded(&ledger), None);
        assert_eq!(told(&Scan::run(&ledger).unwrap()), all);
    }
}
