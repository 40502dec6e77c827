//! Inputs, and what each of their rows asks.

use batchwright_emulator::prompt_hash;
use std::path::{Path, PathBuf};

/// The template every generated input is run with.
pub(crate) const PROMPT: &str = "Say {{ word }}";
/// The template the reviews are run with.
pub(crate) const REVIEW_PROMPT: &str = "Classify: {{ review }}";

/// A row: its id, and the prompt it makes.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) id: String,
    pub(crate) prompt: String,
}

impl Asked {
    /// What the emulator marks the answer to this row with.
    pub(crate) fn hash(&self) -> String {
        prompt_hash([&self.prompt])
    }

    /// How the answer to this row begins.
    pub(crate) fn mark(&self) -> String {
        format!("[prompt:{}]", self.hash())
    }
}

/// A CSV of this many rows, each with words of its own, and what they ask with [`PROMPT`].
pub(crate) fn words(rows: usize) -> (String, Vec<Asked>) {
    words_like(rows, |row| {
        format!("word {row}, \"quoted\"\nand a second line")
    })
}

/// A CSV whose rows hold what `word` makes of their number.
pub(crate) fn words_like(rows: usize, word: impl Fn(usize) -> String) -> (String, Vec<Asked>) {
    let mut csv = "id,word\n".to_owned();
    let mut asked = Vec::new();
    for row in 0..rows {
        let (id, word) = (format!("row-{row}"), word(row));
        csv.push_str(&format!("{id},\"{}\"\n", word.replace('"', "\"\"")));
        let prompt = format!("Say {word}");
        asked.push(Asked { id, prompt });
    }
    (csv, asked)
}

/// The example's reviews.
pub(crate) fn reviews() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/data/reviews.csv")
}

/// Every row of the reviews, and what it asks with [`REVIEW_PROMPT`].
pub(crate) fn reviews_asked() -> (Vec<csv::StringRecord>, Vec<Asked>) {
    let mut reader = csv::Reader::from_path(reviews()).unwrap();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let asked = rows
        .iter()
        .map(|row| Asked {
            id: row[0].to_owned(),
            prompt: format!("Classify: {}", &row[3]),
        })
        .collect();
    (rows, asked)
}
