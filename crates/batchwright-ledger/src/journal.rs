//! Control data in SQLite: the journal, the state folded from it, and what the ledger knows about its files.

use crate::{
    files,
    state::{self, ChunkState},
};
use batchwright_core::{
    Error, ErrorKind, JournalEntry, JournalEvent, Purchases, Result, Timestamp,
};
use ring::digest;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior,
    params,
};
use std::{collections::BTreeMap, fmt::Write as _, path::Path, time::Duration};

/// `PRAGMA user_version` of the schema below.
const SCHEMA_VERSION: i64 = 1;
/// Which way facts are folded into a chunk's state, in the record under this key. Another number where the fold comes
/// to something else for facts that were there before; states of an earlier one are made again.
const FOLD: &str = "fold";
const FOLD_VERSION: &str = "1";
/// `PRAGMA application_id`: "bwrt".
const APPLICATION_ID: i64 = 0x6277_7274;

const SCHEMA: &str = "
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE epochs (
    epoch   INTEGER PRIMARY KEY AUTOINCREMENT,
    host    TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    pid     INTEGER NOT NULL,
    at      INTEGER NOT NULL
) STRICT;
-- Append-only. `digest` covers the row and the digest before it.
CREATE TABLE journal (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    epoch   INTEGER NOT NULL,
    chunk   INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    body    TEXT NOT NULL,
    at      INTEGER NOT NULL,
    digest  TEXT NOT NULL
) STRICT;
CREATE INDEX journal_by_chunk ON journal (chunk, seq);
-- The fold over a chunk's journal, written in the same transaction.
CREATE TABLE chunks (
    chunk INTEGER PRIMARY KEY,
    state TEXT NOT NULL
) STRICT;
CREATE TABLE chunk_files (
    chunk       INTEGER NOT NULL,
    attempt     INTEGER NOT NULL,
    wire_prefix TEXT NOT NULL,
    rows_sha256 TEXT NOT NULL,
    PRIMARY KEY (chunk, attempt)
) STRICT, WITHOUT ROWID;
CREATE TABLE segments (
    epoch    INTEGER NOT NULL,
    number   INTEGER NOT NULL,
    bytes    INTEGER NOT NULL,
    sha256   TEXT NOT NULL,
    outcomes INTEGER NOT NULL,
    intents  INTEGER NOT NULL,
    PRIMARY KEY (epoch, number)
) STRICT, WITHOUT ROWID;
";

/// Who holds the job.
pub(crate) struct Holder {
    pub(crate) host: String,
    pub(crate) boot_id: String,
    pub(crate) pid: u32,
    pub(crate) at: Timestamp,
}

/// What the ledger knows about a sealed chunk besides its `Seal` fact.
#[derive(Clone)]
pub(crate) struct ChunkFile {
    pub(crate) attempt: u32,
    pub(crate) wire_prefix: String,
    pub(crate) rows_sha256: String,
}

/// What a raw file was when it was whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Download {
    pub(crate) chunk: u32,
    pub(crate) sha256: String,
    pub(crate) bytes: u64,
}

/// A segment nobody appends to any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SealedSegment {
    pub(crate) epoch: u64,
    pub(crate) number: u32,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
    pub(crate) outcomes: u64,
    pub(crate) intents: u64,
}

/// The database, used under one mutex.
pub(crate) struct Journal {
    connection: Connection,
    epoch: u64,
    /// After an I/O error nobody knows what is durable; nothing more is written (F-146).
    suspect: bool,
}

fn failed(what: &str, error: rusqlite::Error) -> Error {
    let code = error.sqlite_error_code();
    let message = match code {
        Some(ErrorCode::DiskFull) => {
            format!(
                "{what} ledger.sqlite: disk full; free some space and run again, nothing durable is lost"
            )
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            format!(
                "{what} ledger.sqlite: {error}; make the job folder readable and writable for this user"
            )
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            format!(
                "{what} ledger.sqlite: {error}; restore it from a backup or rebuild it with `batchwright recover`, nothing is sent from a damaged ledger"
            )
        }
        _ => format!("{what} ledger.sqlite: {error}; check the disk, then run again"),
    };
    Error::new(ErrorKind::Storage, message).with_source(error)
}

fn edited(what: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Storage,
        format!(
            "read ledger.sqlite: {what}; restore it from a backup or rebuild it with `batchwright recover`, nothing is sent from a damaged ledger"
        ),
    )
}

fn to_i64(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| {
        Error::new(
            ErrorKind::Unexpected,
            "write ledger.sqlite: a number is past 63 bits",
        )
    })
}

fn to_u64(number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| edited("a count is negative"))
}

fn chain(
    before: &str,
    epoch: i64,
    entry: &JournalEntry,
    attempt: u32,
    kind: &str,
    body: &str,
) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    let head = format!(
        "{before}\n{epoch}\n{}\n{attempt}\n{kind}\n{}\n",
        entry.chunk,
        entry.at.as_unix_millis()
    );
    context.update(head.as_bytes());
    context.update(body.as_bytes());
    let mut hex = String::with_capacity(32);
    for byte in &context.finish().as_ref()[..16] {
        write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
    }
    hex
}

impl Journal {
    /// Opens `path`, which exists, possibly empty; makes its tables where there are none and `may_start`
    /// has nothing against it.
    pub(crate) fn open(path: &Path, may_start: impl FnOnce() -> Result<()>) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection =
            Connection::open_with_flags(path, flags).map_err(|error| failed("open", error))?;
        let set_up = |connection: &mut Connection| -> rusqlite::Result<Result<i64>> {
            connection.busy_timeout(Duration::from_secs(5))?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let version = user_version(&transaction)?;
            if version == 0 {
                if let Err(error) = may_start() {
                    return Ok(Err(error));
                }
                transaction.execute_batch(SCHEMA)?;
                transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
                transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            }
            if matches!(version, 0 | SCHEMA_VERSION)
                && let Err(error) = fold_again(&transaction)?
            {
                return Ok(Err(error));
            }
            transaction.commit()?;
            user_version(connection).map(Ok)
        };
        let version = set_up(&mut connection).map_err(|error| failed("open", error))??;
        Self::new(connection, version)
    }

    /// Opens `path` beside whoever writes it.
    pub(crate) fn open_read_only(path: &Path) -> Result<Self> {
        // SQLite would remove a WAL beside it, which may hold everything.
        if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0) {
            return Err(edited("it is empty"));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection =
            Connection::open_with_flags(path, flags).map_err(|error| failed("open", error))?;
        let version = connection
            .busy_timeout(Duration::from_secs(5))
            .and_then(|()| user_version(&connection))
            .map_err(|error| failed("open", error))?;
        Self::new(connection, version)
    }

    fn new(connection: Connection, version: i64) -> Result<Self> {
        if version == 0 {
            return Err(edited("it is empty"));
        }
        if version != SCHEMA_VERSION {
            return Err(Error::new(
                ErrorKind::Storage,
                format!(
                    "open ledger.sqlite: its format is {version}, this program knows {SCHEMA_VERSION}; use the program that wrote it"
                ),
            ));
        }
        Ok(Self {
            connection,
            epoch: 0,
            suspect: false,
        })
    }

    /// Why nothing more may be sent, where another process began an epoch after `epoch` (F-153).
    pub(crate) fn fence(&self, epoch: u64) -> Result<Option<Error>> {
        let newest = newest_epoch(&self.connection).map_err(|error| failed("read", error))?;
        let epoch = to_i64(epoch)?;
        Ok((newest > epoch).then(|| taken_over(newest, epoch)))
    }

    /// Starts a new epoch; older writers are fenced off from their next intent on (F-153).
    pub(crate) fn begin_epoch(&mut self, holder: &Holder) -> Result<u64> {
        let Holder {
            host,
            boot_id,
            pid,
            at,
        } = holder;
        let epoch = self.write("write the epoch to", |transaction, _| {
            transaction.execute(
                "INSERT INTO epochs (host, boot_id, pid, at) VALUES (?, ?, ?, ?)",
                params![host, boot_id, pid, at.as_unix_millis()],
            )?;
            Ok(Ok(transaction.last_insert_rowid()))
        })?;
        self.epoch = to_u64(epoch)?;
        Ok(self.epoch)
    }

    /// As [`Journal::begin_epoch`], with a number past `before`: of a journal that is made again.
    pub(crate) fn begin_epoch_after(&mut self, before: u64, holder: &Holder) -> Result<u64> {
        let Holder {
            host,
            boot_id,
            pid,
            at,
        } = holder;
        let epoch = to_i64(before.saturating_add(1))?;
        self.write("write the epoch to", |transaction, _| {
            transaction.execute(
                "INSERT INTO epochs (epoch, host, boot_id, pid, at) VALUES (?, ?, ?, ?, ?)",
                params![epoch, host, boot_id, pid, at.as_unix_millis()],
            )?;
            Ok(Ok(()))
        })?;
        self.epoch = to_u64(epoch)?;
        Ok(self.epoch)
    }

    /// Puts everything into the one file, so that it can be given another name.
    pub(crate) fn into_one_file(self) -> Result<()> {
        let mode: String = self
            .connection
            .query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0))
            .map_err(|error| failed("close", error))?;
        if mode != "delete" {
            return Err(edited("somebody else has it open"));
        }
        self.connection
            .close()
            .map_err(|(_, error)| failed("close", error))
    }

    /// Runs `body` in a transaction that is durable when this returns.
    fn write<T>(
        &mut self,
        what: &str,
        body: impl FnOnce(&Transaction<'_>, i64) -> rusqlite::Result<Result<T>>,
    ) -> Result<T> {
        if self.suspect {
            return Err(Error::new(
                ErrorKind::Storage,
                format!(
                    "{what} ledger.sqlite: an earlier write failed and the disk is suspect; check it, then run again"
                ),
            ));
        }
        let epoch = to_i64(self.epoch)?;
        let run = |connection: &mut Connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            match body(&transaction, epoch)? {
                Ok(value) => transaction.commit().map(|()| Ok(value)),
                Err(error) => Ok(Err(error)),
            }
        };
        match run(&mut self.connection) {
            Ok(result) => result,
            Err(error) => {
                self.suspect |= error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure);
                Err(failed(what, error))
            }
        }
    }

    /// Appends facts and folds them, all or none. `file` belongs to the `Seal` among them.
    pub(crate) fn append(
        &mut self,
        entries: &[JournalEntry],
        file: Option<&ChunkFile>,
    ) -> Result<()> {
        self.write("append to", |transaction, epoch| {
            if entries.iter().any(|entry| state::is_intent(&entry.event)) {
                let newest = newest_epoch(transaction)?;
                if newest > epoch {
                    return Ok(Err(taken_over(newest, epoch)));
                }
            }
            let mut before: String = transaction
                .query_row("SELECT digest FROM journal ORDER BY seq DESC LIMIT 1", [], |row| row.get(0))
                .optional()?
                .unwrap_or_default();
            for entry in entries {
                let known = match load_state(transaction, entry.chunk)? {
                    Ok(known) => known,
                    Err(error) => return Ok(Err(error)),
                };
                let attempt = match &entry.event {
                    JournalEvent::Seal { .. } => file.map(|file| file.attempt).unwrap_or_else(|| {
                        known.as_ref().map_or(1, |state| state.attempt + 1)
                    }),
                    event => state::attempt_of(event)
                        .unwrap_or_else(|| known.as_ref().map_or(1, |state| state.attempt)),
                };
                let kind = state::kind_of(&entry.event);
                let body = match serde_json::to_string(&entry.event) {
                    Ok(body) => body,
                    Err(error) => {
                        return Ok(Err(Error::new(ErrorKind::Unexpected, "write a fact as JSON")
                            .with_source(error)));
                    }
                };
                let digest = chain(&before, epoch, entry, attempt, kind, &body);
                transaction
                    .prepare_cached("INSERT INTO journal (epoch, chunk, attempt, kind, body, at, digest) VALUES (?, ?, ?, ?, ?, ?, ?)")?
                    .execute(params![epoch, entry.chunk, attempt, kind, body, entry.at.as_unix_millis(), digest])?;
                before = digest;
                let folded = state::fold(known, attempt, entry);
                transaction
                    .prepare_cached("INSERT INTO chunks (chunk, state) VALUES (?, ?) ON CONFLICT (chunk) DO UPDATE SET state = excluded.state")?
                    .execute(params![entry.chunk, state_json(&folded)])?;
                if let (JournalEvent::Seal { .. }, Some(file)) = (&entry.event, file) {
                    transaction.execute(
                        "INSERT INTO chunk_files (chunk, attempt, wire_prefix, rows_sha256) VALUES (?, ?, ?, ?)",
                        params![entry.chunk, file.attempt, file.wire_prefix, file.rows_sha256],
                    )?;
                }
            }
            Ok(Ok(()))
        })?;
        for entry in entries {
            files::told("fact", state::kind_of(&entry.event));
        }
        Ok(())
    }

    /// The facts of one chunk, oldest first.
    pub(crate) fn entries(&self, chunk: u32) -> Result<Vec<JournalEntry>> {
        let read = || -> rusqlite::Result<Vec<(i64, String)>> {
            self.connection
                .prepare_cached("SELECT at, body FROM journal WHERE chunk = ? ORDER BY seq")?
                .query_map([chunk], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        };
        read()
            .map_err(|error| failed("read", error))?
            .into_iter()
            .map(|(at, body)| {
                let event = parse_event(chunk, &body)?;
                Ok(JournalEntry::new(
                    chunk,
                    Timestamp::from_unix_millis(at),
                    event,
                ))
            })
            .collect()
    }

    /// Every chunk's folded state, by number.
    pub(crate) fn chunks(&self) -> Result<Vec<ChunkState>> {
        let read = || -> rusqlite::Result<Vec<(u32, String)>> {
            self.connection
                .prepare_cached("SELECT chunk, state FROM chunks ORDER BY chunk")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        };
        read()
            .map_err(|error| failed("read", error))?
            .into_iter()
            .map(|(chunk, json)| parse_state(chunk, &json))
            .collect()
    }

    /// One chunk's folded state.
    pub(crate) fn chunk(&self, chunk: u32) -> Result<Option<ChunkState>> {
        let json: Option<String> = self
            .connection
            .prepare_cached("SELECT state FROM chunks WHERE chunk = ?")
            .and_then(|mut statement| statement.query_row([chunk], |row| row.get(0)).optional())
            .map_err(|error| failed("read", error))?;
        json.map(|json| parse_state(chunk, &json)).transpose()
    }

    /// Values whose keys begin with `prefix`.
    pub(crate) fn metas(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        let read = || -> rusqlite::Result<Vec<(String, String)>> {
            self.connection
                .prepare_cached(
                    "SELECT key, value FROM meta WHERE substr(key, 1, length(?1)) = ?1 ORDER BY key",
                )?
                .query_map([prefix], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        };
        read().map_err(|error| failed("read", error))
    }

    /// What is known of the purchases for all chunks.
    pub(crate) fn purchases(&self) -> Result<Purchases> {
        let read = || -> rusqlite::Result<Vec<(u32, String)>> {
            self.connection
                .prepare_cached(
                    "SELECT chunk, body FROM journal WHERE kind IN ('created', 'adopted', 'surplus') ORDER BY seq",
                )?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        };
        let mut bought = Vec::new();
        for (chunk, body) in read().map_err(|error| failed("read", error))? {
            match parse_event(chunk, &body)? {
                JournalEvent::Created { handle, .. } => bought.push((chunk, handle, true)),
                JournalEvent::Surplus {
                    handle, certain, ..
                } => bought.push((chunk, handle, certain)),
                JournalEvent::Adopted { handle, .. } => {
                    let certain = !handle.input.0.is_empty();
                    bought.push((chunk, handle, certain));
                }
                _ => {}
            }
        }
        Ok(state::purchases(bought, &self.chunks()?))
    }

    /// The `Seal` fact of an attempt and what goes with it.
    pub(crate) fn seal(
        &self,
        chunk: u32,
        attempt: u32,
    ) -> Result<Option<(JournalEvent, ChunkFile)>> {
        let found: Option<(String, String, String)> = self
            .connection
            .prepare_cached(
                "SELECT body, wire_prefix, rows_sha256 FROM journal JOIN chunk_files USING (chunk, attempt)
                 WHERE chunk = ? AND attempt = ? AND kind = 'seal' ORDER BY seq DESC LIMIT 1",
            )
            .and_then(|mut statement| {
                statement
                    .query_row([chunk, attempt], |row| {
                        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                    })
                    .optional()
            })
            .map_err(|error| failed("read", error))?;
        found
            .map(|(body, wire_prefix, rows_sha256)| {
                let file = ChunkFile {
                    attempt,
                    wire_prefix,
                    rows_sha256,
                };
                Ok((parse_event(chunk, &body)?, file))
            })
            .transpose()
    }

    /// Every sealed attempt, by chunk and attempt.
    pub(crate) fn sealed_attempts(&self) -> Result<Vec<(u32, u32)>> {
        let read = || -> rusqlite::Result<Vec<(u32, u32)>> {
            self.connection
                .prepare_cached("SELECT chunk, attempt FROM chunk_files ORDER BY chunk, attempt")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        };
        read().map_err(|error| failed("read", error))
    }

    /// The newest `Downloaded` fact of every raw file, by its name.
    pub(crate) fn downloads(&self) -> Result<BTreeMap<String, Download>> {
        let read = || -> rusqlite::Result<Vec<(u32, String)>> {
            self.connection
                .prepare_cached(
                    "SELECT chunk, body FROM journal WHERE kind = 'downloaded' ORDER BY seq",
                )?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        };
        let mut downloads = BTreeMap::new();
        for (chunk, body) in read().map_err(|error| failed("read", error))? {
            if let JournalEvent::Downloaded {
                file,
                sha256,
                bytes,
                ..
            } = parse_event(chunk, &body)?
            {
                let download = Download {
                    chunk,
                    sha256,
                    bytes,
                };
                downloads.insert(file, download);
            }
        }
        Ok(downloads)
    }

    pub(crate) fn meta(&self, key: &str) -> Result<Option<String>> {
        self.connection
            .prepare_cached("SELECT value FROM meta WHERE key = ?")
            .and_then(|mut statement| statement.query_row([key], |row| row.get(0)).optional())
            .map_err(|error| failed("read", error))
    }

    pub(crate) fn set_meta(&mut self, key: &str, value: &str) -> Result<()> {
        self.write("write to", |transaction, _| {
            transaction.execute(
                "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                [key, value],
            )?;
            Ok(Ok(()))
        })?;
        files::told("meta", key);
        Ok(())
    }

    pub(crate) fn segments(&self) -> Result<Vec<SealedSegment>> {
        // A negative number was not written by us; as the largest one it matches no file.
        let count = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
        let read = || -> rusqlite::Result<Vec<SealedSegment>> {
            self.connection
                .prepare_cached("SELECT epoch, number, bytes, sha256, outcomes, intents FROM segments ORDER BY epoch, number")?
                .query_map([], |row| {
                    Ok(SealedSegment {
                        epoch: count(row.get(0)?),
                        number: row.get(1)?,
                        bytes: count(row.get(2)?),
                        sha256: row.get(3)?,
                        outcomes: count(row.get(4)?),
                        intents: count(row.get(5)?),
                    })
                })?
                .collect()
        };
        read().map_err(|error| failed("read", error))
    }

    pub(crate) fn put_segment(&mut self, segment: &SealedSegment) -> Result<()> {
        let SealedSegment {
            epoch,
            number,
            bytes,
            sha256,
            outcomes,
            intents,
        } = segment;
        let (epoch, bytes) = (to_i64(*epoch)?, to_i64(*bytes)?);
        let (outcomes, intents) = (to_i64(*outcomes)?, to_i64(*intents)?);
        self.write("write to", |transaction, _| {
            transaction.execute(
                "INSERT INTO segments (epoch, number, bytes, sha256, outcomes, intents) VALUES (?, ?, ?, ?, ?, ?)",
                params![epoch, number, bytes, sha256, outcomes, intents],
            )?;
            Ok(Ok(()))
        })?;
        files::told("meta", "segment");
        Ok(())
    }

    /// Checks the database's pages and indexes, the chain of digests over the journal, and that every state is the
    /// fold of its facts (F-155). All of it as of one moment, whoever writes meanwhile.
    pub(crate) fn check(&self) -> Result<()> {
        let _snapshot = self
            .connection
            .unchecked_transaction()
            .map_err(|error| failed("read", error))?;
        let answer: String = self
            .connection
            .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
            .map_err(|error| failed("check", error))?;
        if answer != "ok" {
            return Err(edited(answer));
        }
        let mut folded = BTreeMap::new();
        let mut before = String::new();
        let mut walk = || -> rusqlite::Result<Result<()>> {
            let mut statement = self
                .connection
                .prepare("SELECT seq, epoch, chunk, attempt, kind, body, at, digest FROM journal ORDER BY seq")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (seq, epoch): (i64, i64) = (row.get(0)?, row.get(1)?);
                let (chunk, attempt): (u32, u32) = (row.get(2)?, row.get(3)?);
                let (kind, body): (String, String) = (row.get(4)?, row.get(5)?);
                let (at, digest): (i64, String) = (row.get(6)?, row.get(7)?);
                let event = match parse_event(chunk, &body) {
                    Ok(event) => event,
                    Err(error) => return Ok(Err(error)),
                };
                let entry = JournalEntry::new(chunk, Timestamp::from_unix_millis(at), event);
                if chain(&before, epoch, &entry, attempt, &kind, &body) != digest {
                    return Ok(Err(edited(format!(
                        "journal entry {seq} or one before it was changed"
                    ))));
                }
                before = digest;
                let state = state::fold(folded.remove(&chunk), attempt, &entry);
                folded.insert(chunk, state);
            }
            Ok(Ok(()))
        };
        walk().map_err(|error| failed("read", error))??;
        if self.meta(FOLD)?.as_deref() != Some(FOLD_VERSION) {
            // An earlier program's states say less; whoever opens the job to write makes them again.
            return Ok(());
        }
        let stored = self.chunks()?;
        if stored.len() != folded.len() || !stored.iter().eq(folded.values()) {
            return Err(edited("a chunk's state is not what its journal says"));
        }
        Ok(())
    }
}

/// Makes the states of chunks again where an earlier program folded them.
fn fold_again(transaction: &Transaction<'_>) -> rusqlite::Result<Result<()>> {
    let folded_by: Option<String> = transaction
        .query_row("SELECT value FROM meta WHERE key = ?", [FOLD], |row| {
            row.get(0)
        })
        .optional()?;
    if folded_by.as_deref() == Some(FOLD_VERSION) {
        return Ok(Ok(()));
    }
    let mut states: BTreeMap<u32, ChunkState> = BTreeMap::new();
    let mut statement =
        transaction.prepare("SELECT chunk, attempt, body, at FROM journal ORDER BY seq")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (chunk, attempt): (u32, u32) = (row.get(0)?, row.get(1)?);
        let (body, at): (String, i64) = (row.get(2)?, row.get(3)?);
        let event = match parse_event(chunk, &body) {
            Ok(event) => event,
            Err(error) => return Ok(Err(error)),
        };
        let entry = JournalEntry::new(chunk, Timestamp::from_unix_millis(at), event);
        let state = state::fold(states.remove(&chunk), attempt, &entry);
        states.insert(chunk, state);
    }
    for (chunk, state) in &states {
        transaction.execute(
            "UPDATE chunks SET state = ? WHERE chunk = ?",
            params![state_json(state), chunk],
        )?;
    }
    transaction.execute(
        "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        [FOLD, FOLD_VERSION],
    )?;
    Ok(Ok(()))
}

fn newest_epoch(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("SELECT max(epoch) FROM epochs")?
        .query_row([], |row| row.get(0))
}

fn taken_over(newest: i64, epoch: i64) -> Error {
    Error::new(
        ErrorKind::Storage,
        format!(
            "go on: another process took this job over (epoch {newest}, ours is {epoch}); leave it to that one"
        ),
    )
}

fn user_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn load_state(
    transaction: &Transaction<'_>,
    chunk: u32,
) -> rusqlite::Result<Result<Option<ChunkState>>> {
    let json: Option<String> = transaction
        .prepare_cached("SELECT state FROM chunks WHERE chunk = ?")?
        .query_row([chunk], |row| row.get(0))
        .optional()?;
    Ok(json.map(|json| parse_state(chunk, &json)).transpose())
}

fn state_json(state: &ChunkState) -> String {
    serde_json::to_string(state).expect("plain strings and numbers always serialise")
}

fn parse_state(chunk: u32, json: &str) -> Result<ChunkState> {
    serde_json::from_str(json).map_err(|error| {
        edited(format!("the state of chunk {chunk} cannot be read")).with_source(error)
    })
}

fn parse_event(chunk: u32, json: &str) -> Result<JournalEvent> {
    serde_json::from_str(json).map_err(|error| {
        edited(format!("a fact about chunk {chunk} cannot be read")).with_source(error)
    })
}
