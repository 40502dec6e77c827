//! Keys and addresses: from the environment or a file, never from the command line.

use crate::{named_file, providers::Pairs};
use anyhow::bail;
use std::path::Path;

/// Names and values: the environment's, and for what it lacks those of a file.
pub(crate) fn pairs(file: Option<&Path>) -> anyhow::Result<Pairs> {
    let mut pairs = Pairs::new();
    if let Some(path) = file {
        let text = named_file::read(path)?;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            let line = line.strip_prefix("export ").unwrap_or(line);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // The line itself is not shown: it may hold a key.
            let Some((name, value)) = line.split_once('=') else {
                bail!("{}:{number}: write NAME=VALUE", path.display());
            };
            let value = value.trim();
            let unquoted = ['"', '\'']
                .iter()
                .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
            pairs.insert(name.trim().to_owned(), unquoted.unwrap_or(value).to_owned());
        }
    }
    pairs.extend(std::env::vars().filter(|(_, value)| !value.is_empty()));
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_gives_what_the_environment_lacks_and_shows_no_line() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(
            file,
            "# a comment\nexport BW_TEST_A=\"one\"\n\nBW_TEST_B = two "
        )
        .unwrap();
        let pairs = pairs(Some(file.path())).unwrap();
        assert_eq!(
            (pairs["BW_TEST_A"].as_str(), pairs["BW_TEST_B"].as_str()),
            ("one", "two")
        );

        writeln!(file, "sk-CANARY").unwrap();
        let error = super::pairs(Some(file.path())).unwrap_err().to_string();
        assert!(
            error.contains(":5:") && !error.contains("CANARY"),
            "{error}"
        );
    }
}
