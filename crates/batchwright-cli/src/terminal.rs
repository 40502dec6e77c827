//! Words for people, on standard error.

use std::{
    fmt::Display,
    io::{ErrorKind, Write},
};

/// Prints an error and its causes.
pub(crate) fn error(error: &anyhow::Error) {
    let mut shown = clean(&error.to_string());
    for cause in error.chain().skip(1) {
        let cause = clean(&cause.to_string());
        // Many errors repeat their cause in their own words.
        if !shown.contains(&cause) {
            shown.push_str(": ");
            shown.push_str(&cause);
        }
    }
    say(format_args!("error: {shown}"));
}

/// Says a line on standard error. Whether anyone listens does not matter.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{}", clean(&line.to_string()));
}

/// Prints a line of data on standard output. A reader that went away, such as `head`, ends the command
/// quietly (F-157).
pub(crate) fn print(line: impl Display) {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            say(format_args!("error: write to standard output: {error}"));
            std::process::exit(crate::exit::Exit::Io.code().into());
        }
        Ok(()) => {}
    }
}

/// Takes out what could steer a terminal: text from outside may hold escape sequences (F-202).
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .filter(|c| *c == '\n' || !c.is_control())
        .collect()
}

/// A number of rows.
pub(crate) fn rows(number: u64) -> String {
    format!(
        "{} {}",
        count(number),
        if number == 1 { "row" } else { "rows" }
    )
}

/// A count with its thousands apart.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_202_escape_sequences_never_reach_the_terminal() {
        assert_eq!(clean("a\u{1b}]52;c;x\u{7}b\r\nc\u{9b}2J"), "a]52;c;xb\nc2J");
    }

    #[test]
    fn counts_read_well() {
        assert_eq!(
            [count(7), count(1000), count(1234567)],
            ["7", "1,000", "1,234,567"]
        );
    }
}
