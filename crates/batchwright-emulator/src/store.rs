//! Files on disk: one data file and one record per uploaded or produced file, scoped per key.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{EmulatorError, Result};
use crate::seed::{hex, sha256};

/// What is known of a stored file; its bytes are beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    pub(crate) id: String,
    pub(crate) sequence: u64,
    pub(crate) face: String,
    /// Fingerprint of the owner's key.
    pub(crate) key: String,
    pub(crate) bytes: u64,
    pub(crate) created_ms: i64,
    pub(crate) expires_ms: Option<i64>,
    pub(crate) filename: String,
    pub(crate) purpose: String,
    /// From when on lists show it.
    pub(crate) listed_ms: i64,
    /// From when on it is found at all.
    pub(crate) visible_ms: i64,
}

impl FileRecord {
    /// Whether a call to this face with this key finds the file now.
    pub(crate) fn is_there(&self, face: &str, key: &str, now_ms: i64) -> bool {
        self.face == face
            && self.key == key
            && self.visible_ms <= now_ms
            && self.expires_ms.is_none_or(|expires| now_ms < expires)
    }
}

/// The folder of files.
#[derive(Debug)]
pub(crate) struct FileStore {
    dir: PathBuf,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    in_order: BTreeMap<u64, Arc<FileRecord>>,
    by_id: HashMap<String, u64>,
}

impl FileStore {
    pub(crate) fn open(dir: PathBuf) -> Result<Self> {
        make_dir(&dir)?;
        let mut index = Index::default();
        for record in read_records::<FileRecord>(&dir)? {
            index.insert(Arc::new(record));
        }
        Ok(Self {
            dir,
            index: Mutex::new(index),
        })
    }

    /// Where the bytes of a file are.
    pub(crate) fn data_path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{}.data", name_of(id)))
    }

    /// A path for bytes that are still arriving.
    pub(crate) fn scratch_path(&self, sequence: u64) -> PathBuf {
        self.dir.join(format!("{sequence}.scratch"))
    }

    /// Takes over the bytes at `scratch` as the data of a new file.
    pub(crate) fn insert(&self, record: FileRecord, scratch: &Path) -> io::Result<Arc<FileRecord>> {
        fs::rename(scratch, self.data_path(&record.id))?;
        write_record(
            &self.dir.join(format!("{}.json", name_of(&record.id))),
            &record,
        )?;
        let record = Arc::new(record);
        self.lock().insert(Arc::clone(&record));
        Ok(record)
    }

    pub(crate) fn get(
        &self,
        face: &str,
        key: &str,
        id: &str,
        now_ms: i64,
    ) -> Option<Arc<FileRecord>> {
        let index = self.lock();
        let record = index.in_order.get(index.by_id.get(id)?)?;
        record
            .is_there(face, key, now_ms)
            .then(|| Arc::clone(record))
    }

    /// A key's files at a face, oldest first.
    pub(crate) fn list(&self, face: &str, key: &str, now_ms: i64) -> Vec<Arc<FileRecord>> {
        self.lock()
            .in_order
            .values()
            .filter(|record| record.is_there(face, key, now_ms) && record.listed_ms <= now_ms)
            .map(Arc::clone)
            .collect()
    }

    pub(crate) fn remove(&self, id: &str) -> io::Result<()> {
        let mut index = self.lock();
        if let Some(sequence) = index.by_id.remove(id) {
            index.in_order.remove(&sequence);
        }
        drop(index);
        remove_file(&self.dir.join(format!("{}.json", name_of(id))))?;
        remove_file(&self.data_path(id))
    }

    pub(crate) fn clear(&self) -> io::Result<()> {
        let ids: Vec<String> = self.lock().by_id.keys().cloned().collect();
        ids.iter().try_for_each(|id| self.remove(id))
    }

    /// The latest instant any record speaks of having happened.
    pub(crate) fn latest_ms(&self) -> Option<i64> {
        let index = self.lock();
        index
            .in_order
            .values()
            .map(|record| record.created_ms)
            .max()
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn insert(&mut self, record: Arc<FileRecord>) {
        if let Some(old) = self.by_id.insert(record.id.clone(), record.sequence) {
            self.in_order.remove(&old);
        }
        self.in_order.insert(record.sequence, record);
    }
}

/// What a file is called on disk: its id, or a hash of it when the id (an object's name, say) may be no file name.
fn name_of(id: &str) -> Cow<'_, str> {
    let plain = id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if plain && id.len() <= 100 {
        Cow::Borrowed(id)
    } else {
        Cow::Owned(format!("name.{}", hex(&sha256(id.as_bytes()))))
    }
}

/// Writes a record so that a kill leaves either the old one or the new one.
pub(crate) fn write_record<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    let fresh = path.with_extension("json.new");
    fs::write(&fresh, serde_json::to_vec(record)?)?;
    fs::rename(&fresh, path)
}

/// Reads every `*.json` of a folder and removes what a kill left half written.
pub(crate) fn read_records<T: DeserializeOwned>(dir: &Path) -> Result<Vec<T>> {
    let data = |path: &Path| {
        let path = path.to_path_buf();
        move |source| EmulatorError::Data { path, source }
    };
    let mut records = Vec::new();
    for entry in fs::read_dir(dir).map_err(data(dir))? {
        let path = entry.map_err(data(dir))?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => {
                let text = fs::read(&path).map_err(data(&path))?;
                let record =
                    serde_json::from_slice(&text).map_err(|source| EmulatorError::Record {
                        path: path.clone(),
                        source,
                    })?;
                records.push(record);
            }
            Some("new" | "scratch") => remove_file(&path).map_err(data(&path))?,
            _ => {}
        }
    }
    Ok(records)
}

pub(crate) fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|source| EmulatorError::Data {
        path: dir.to_path_buf(),
        source,
    })
}

/// Removes a file that may be gone already.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
