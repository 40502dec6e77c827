//! A test program: lists, chooses and runs tests as `cargo test` and `cargo nextest` ask.

use std::{
    borrow::Cow,
    collections::VecDeque,
    io::{self, Write},
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::{Mutex, PoisonError},
    thread,
};

/// One test.
pub(crate) struct Test {
    pub(crate) name: String,
    /// Why it does not apply.
    pub(crate) ignored: Option<Cow<'static, str>>,
    pub(crate) run: Box<dyn Fn() + Send + Sync>,
}

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ask {
    list: bool,
    /// Only what is ignored.
    ignored: bool,
    exact: bool,
    threads: Option<NonZeroUsize>,
    skip: Vec<String>,
    filters: Vec<String>,
}

impl Ask {
    fn read(arguments: impl Iterator<Item = String>) -> Self {
        let mut ask = Self::default();
        let mut arguments = arguments.flat_map(|argument| match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => {
                vec![name.to_owned(), value.to_owned()]
            }
            _ => vec![argument],
        });
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => ask.list = true,
                "--ignored" => ask.ignored = true,
                "--exact" => ask.exact = true,
                "--test-threads" => ask.threads = arguments.next().and_then(|n| n.parse().ok()),
                "--skip" => ask.skip.extend(arguments.next()),
                // Those with a value that changes nothing here.
                "--format" | "--color" | "--logfile" | "-Z" => {
                    arguments.next();
                }
                flag if flag.starts_with('-') => {}
                _ => ask.filters.push(argument),
            }
        }
        ask
    }

    fn wants(&self, name: &str) -> bool {
        let fits = |part: &String| {
            if self.exact {
                name == part
            } else {
                name.contains(part.as_str())
            }
        };
        (self.filters.is_empty() || self.filters.iter().any(fits)) && !self.skip.iter().any(fits)
    }
}

/// Does what the arguments ask; the exit code is 101 where a test failed.
pub(crate) fn main(tests: Vec<Test>, arguments: impl Iterator<Item = String>) -> ExitCode {
    let ask = Ask::read(arguments);
    let chosen: Vec<&Test> = tests.iter().filter(|test| ask.wants(&test.name)).collect();
    if ask.list {
        for test in chosen {
            if !ask.ignored || test.ignored.is_some() {
                say(&format!("{}: test", test.name));
            }
        }
        return ExitCode::SUCCESS;
    }
    let threads = ask.threads.or_else(|| thread::available_parallelism().ok());
    let threads = threads.map_or(1, NonZeroUsize::get);
    let (ignored, run): (Vec<&Test>, Vec<&Test>) =
        chosen.into_iter().partition(|test| test.ignored.is_some());
    say(&format!("\nrunning {} tests", ignored.len() + run.len()));
    for test in &ignored {
        let reason = test.ignored.as_deref().unwrap_or_default();
        say(&format!("test {} ... ignored, {reason}", test.name));
    }
    let (run, passed_over) = if ask.ignored {
        (Vec::new(), run.len())
    } else {
        (run, 0)
    };
    let all = run.len();
    let failed = failures(run, threads);
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    say(&format!(
        "\ntest result: {verdict}. {} passed; {} failed; {} ignored; 0 measured; {} filtered out\n",
        all - failed.len(),
        failed.len(),
        ignored.len(),
        tests.len() - all - ignored.len() - passed_over,
    ));
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    say(&format!("failures:\n    {}\n", failed.join("\n    ")));
    ExitCode::from(101)
}

/// Runs the tests and names those that failed.
fn failures(tests: Vec<&Test>, threads: usize) -> Vec<String> {
    let waiting = Mutex::new(VecDeque::from(tests));
    let failed = Mutex::new(Vec::new());
    let lock = |mutex: &Mutex<Vec<String>>, name: &str| {
        let mut names = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        names.push(name.to_owned());
    };
    let work = || {
        loop {
            let next = waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some(test) = next else { return };
            // The panic's message is printed by its hook.
            let ended = catch_unwind(AssertUnwindSafe(|| (test.run)()));
            let verdict = if ended.is_ok() { "ok" } else { "FAILED" };
            say(&format!("test {} ... {verdict}", test.name));
            if ended.is_err() {
                lock(&failed, &test.name);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Nobody listens where the pipe is gone.
fn say(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    fn read(arguments: &[&str]) -> Ask {
        Ask::read(arguments.iter().map(|&argument| argument.to_owned()))
    }

    #[test]
    fn what_cargo_and_nextest_ask_is_understood() {
        let list = read(&["--list", "--format", "terse", "--ignored"]);
        assert!(list.list && list.ignored && list.filters.is_empty());
        let one = read(&["a::b", "--nocapture", "--exact"]);
        assert!(one.wants("a::b") && !one.wants("a::b::c") && !one.wants("x"));
        let some = read(&[
            "b",
            "--skip",
            "c",
            "--test-threads=3",
            "-q",
            "--color=never",
        ]);
        assert!(some.wants("a::b") && !some.wants("a::bc"));
        assert_eq!(some.threads, NonZeroUsize::new(3));
        assert!(read(&[]).wants("anything"));
    }

    #[test]
    fn a_failing_test_is_named_and_an_ignored_one_is_not_run() {
        let ran = Arc::new(AtomicUsize::new(0));
        let test = |name: &str, ignored: Option<&'static str>, fails: bool| {
            let ran = Arc::clone(&ran);
            Test {
                name: name.to_owned(),
                ignored: ignored.map(Cow::Borrowed),
                run: Box::new(move || {
                    ran.fetch_add(1, Ordering::SeqCst);
                    assert!(!fails, "as it should");
                }),
            }
        };
        let tests = || {
            vec![
                test("good", None, false),
                test("bad", None, true),
                test("left out", Some("why"), true),
            ]
        };
        let all = tests();
        let runnable = all.iter().filter(|test| test.ignored.is_none()).collect();
        assert_eq!(failures(runnable, 2), ["bad"]);
        assert_eq!(ran.swap(0, Ordering::SeqCst), 2);
        let code = |arguments: &[&str]| {
            let arguments = arguments.iter().map(|&argument| argument.to_owned());
            format!("{:?}", main(tests(), arguments))
        };
        assert_eq!(code(&["good"]), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(code(&["left out"]), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(ran.swap(0, Ordering::SeqCst), 1);
        assert_eq!(code(&[]), format!("{:?}", ExitCode::from(101)));
    }
}
