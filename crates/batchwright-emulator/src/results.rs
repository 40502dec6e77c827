//! Results files: the shuffled copy that clients download, and the ways it can go wrong.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::Value;

use crate::faults::{Mutation, MutationKind};
use crate::seed::Rng;

/// What a results line looks like in one protocol.
pub(crate) trait LineShape: Send + Sync {
    /// The key of the caller's id.
    fn id_key(&self) -> &'static str;
    /// Empties a line's answer the way the vendor was seen to do.
    fn hollow(&self, line: &mut Value);
}

/// Copies a file of lines, shuffled when `shuffle` says so, and spoils it as asked.
///
/// Holds the places of the lines in memory, 24 bytes each, never the lines.
pub(crate) fn copy(
    from: &Path,
    to: &Path,
    seed: u64,
    shuffle: bool,
    mutations: &[&Mutation],
    shape: &dyn LineShape,
) -> io::Result<u64> {
    let mut source = File::open(from)?;
    let mut pieces = index(&source)?;
    let mut rng = Rng::new(seed);
    if shuffle {
        shuffle_all(&mut pieces, &mut rng);
    }
    let mut cut = 0;
    let mut page = None;
    let mut crlf = false;
    for mutation in mutations {
        let mut plan = Plan {
            pieces: &mut pieces,
            source: &mut source,
            rng: &mut rng,
            shape,
        };
        match mutation.kind {
            MutationKind::Truncate => cut = mutation.count,
            MutationKind::Html => page = Some(HTML),
            MutationKind::Crlf => crlf = true,
            MutationKind::Bom => plan
                .pieces
                .insert(0, Piece::Text(Box::from(&b"\xEF\xBB\xBF"[..]))),
            MutationKind::Shuffle => shuffle_all(plan.pieces, plan.rng),
            _ => plan.spoil(mutation)?,
        }
    }
    if let Some(page) = page {
        std::fs::write(to, page)?;
        return Ok(page.len() as u64);
    }
    let mut target = BufWriter::with_capacity(256 << 10, File::create(to)?);
    let mut line = Vec::new();
    let mut written = 0;
    for piece in &pieces {
        piece.read(&mut source, &mut line)?;
        if crlf && line.pop_if(|last| *last == b'\n').is_some() {
            line.extend_from_slice(b"\r\n");
        }
        target.write_all(&line)?;
        written += line.len() as u64;
    }
    let file = target
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    if cut > 0 {
        written = written.saturating_sub(cut);
        file.set_len(written)?;
    }
    Ok(written)
}

const HTML: &str = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>\n";

enum Piece {
    /// Offset and length of a line, its newline included.
    Line(u64, u32),
    Text(Box<[u8]>),
}

impl Piece {
    fn read(&self, source: &mut File, line: &mut Vec<u8>) -> io::Result<()> {
        line.clear();
        match self {
            Self::Line(offset, len) => {
                line.resize(*len as usize, 0);
                source.seek(SeekFrom::Start(*offset))?;
                source.read_exact(line)
            }
            Self::Text(text) => {
                line.extend_from_slice(text);
                Ok(())
            }
        }
    }
}

fn index(source: &File) -> io::Result<Vec<Piece>> {
    let mut reader = BufReader::with_capacity(256 << 10, source);
    let mut pieces = Vec::new();
    let mut offset = 0;
    loop {
        let len = reader.skip_until(b'\n')?;
        if len == 0 {
            return Ok(pieces);
        }
        let short = u32::try_from(len).map_err(io::Error::other)?;
        pieces.push(Piece::Line(offset, short));
        offset += len as u64;
    }
}

fn shuffle_all(pieces: &mut [Piece], rng: &mut Rng) {
    for index in (1..pieces.len()).rev() {
        pieces.swap(index, place(rng, index + 1));
    }
}

fn place(rng: &mut Rng, bound: usize) -> usize {
    usize::try_from(rng.below(bound as u64)).expect("an index fits usize")
}

struct Plan<'a> {
    pieces: &'a mut Vec<Piece>,
    source: &'a mut File,
    rng: &'a mut Rng,
    shape: &'a dyn LineShape,
}

impl Plan<'_> {
    fn spoil(&mut self, mutation: &Mutation) -> io::Result<()> {
        for turn in 0..mutation.count {
            if self.pieces.is_empty() {
                break;
            }
            let at = place(self.rng, self.pieces.len());
            match mutation.kind {
                MutationKind::Drop => {
                    self.pieces.remove(at);
                }
                MutationKind::Duplicate => {
                    let text = self.line(at)?;
                    let to = place(self.rng, self.pieces.len() + 1);
                    self.pieces.insert(to, Piece::Text(text.into()));
                }
                MutationKind::Add => {
                    let mut line = self.value(at)?;
                    line[self.shape.id_key()] = Value::from(format!("never-sent-{turn}"));
                    let to = place(self.rng, self.pieces.len() + 1);
                    self.pieces.insert(to, text(&line)?);
                }
                MutationKind::Swap => {
                    if self.pieces.len() < 2 {
                        break;
                    }
                    let other =
                        (at + 1 + place(self.rng, self.pieces.len() - 1)) % self.pieces.len();
                    let (mut one, mut two) = (self.value(at)?, self.value(other)?);
                    let key = self.shape.id_key();
                    let id = one[key].take();
                    one[key] = two[key].take();
                    two[key] = id;
                    self.pieces[at] = text(&one)?;
                    self.pieces[other] = text(&two)?;
                }
                MutationKind::Hollow => {
                    let mut line = self.value(at)?;
                    self.shape.hollow(&mut line);
                    self.pieces[at] = text(&line)?;
                }
                MutationKind::Garble => {
                    let mut line = self.line(at)?;
                    line.truncate(line.len() / 2);
                    line.push(b'\n');
                    self.pieces[at] = Piece::Text(line.into());
                }
                MutationKind::Blank => {
                    self.pieces.insert(at, Piece::Text(Box::from(&b"\n"[..])));
                }
                MutationKind::Shuffle
                | MutationKind::Truncate
                | MutationKind::Html
                | MutationKind::Crlf
                | MutationKind::Bom => {}
            }
        }
        Ok(())
    }

    fn line(&mut self, at: usize) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        self.pieces[at].read(self.source, &mut line)?;
        Ok(line)
    }

    fn value(&mut self, at: usize) -> io::Result<Value> {
        let line = self.line(at)?;
        // A line that an earlier mutation garbled counts as an empty object.
        Ok(serde_json::from_slice(&line).unwrap_or_else(|_| Value::Object(serde_json::Map::new())))
    }
}

fn text(line: &Value) -> io::Result<Piece> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(Piece::Text(text.into()))
}
