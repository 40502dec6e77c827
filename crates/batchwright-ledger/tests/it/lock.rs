use super::{job, success};
use batchwright_core::ErrorKind;
use batchwright_ledger::Ledger;
use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Barrier,
    thread,
};

/// Names the folder to a child process that is this test binary again.
const FOLDER: &str = "BATCHWRIGHT_TEST_FOLDER";

/// Runs one test of this binary as a process of its own, in `folder`.
fn child(test: &str, folder: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_for(child: &mut Child, word: &str, times: usize) -> Vec<String> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The test harness may print its own words before ours on the same line.
    lines
        .map(Result::unwrap)
        .filter_map(|line| Some(line[line.find(word)? + word.len()..].trim().to_owned()))
        .take(times)
        .collect()
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn f_151_the_second_process_is_told_who_holds_the_job() {
    if let Some(folder) = env::var_os(FOLDER) {
        let _ledger = Ledger::open(Path::new(&folder)).unwrap();
        println!("@held");
        // Until the parent kills this process, or is gone itself.
        std::io::stdin().lines().count();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut holder = child(
        "lock::f_151_the_second_process_is_told_who_holds_the_job",
        folder.path(),
    );
    assert_eq!(wait_for(&mut holder, "@held", 1).len(), 1);
    let error = Ledger::open(folder.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    let expected = format!("job is held by pid {} on host ", holder.id());
    assert!(error.message().contains(&expected), "{error}");
    assert!(error.message().contains(" since 20"), "{error}");
    // Readers need no lock.
    assert!(
        Ledger::open_read_only(folder.path())
            .unwrap()
            .chunks()
            .unwrap()
            .is_empty()
    );
    kill(holder);
    // F-152: nothing has to be unlocked after a kill.
    assert_eq!(Ledger::open(folder.path()).unwrap().epoch(), 2);
}

#[test]
fn f_148_confirmed_outcomes_survive_a_kill() {
    if let Some(folder) = env::var_os(FOLDER) {
        let ledger = Ledger::open(Path::new(&folder)).unwrap();
        let log = ledger.outcome_log().unwrap();
        for row in 0.. {
            log.append_blocking(&[success(row)]).unwrap();
            println!("@saved {row}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let mut writer = child(
        "lock::f_148_confirmed_outcomes_survive_a_kill",
        folder.path(),
    );
    let rows = wait_for(&mut writer, "@saved", 50);
    kill(writer);
    assert_eq!(rows.len(), 50);
    let scan = Ledger::open(folder.path()).unwrap().scan().unwrap();
    for row in rows {
        assert!(scan.answered.contains(row.parse().unwrap()), "row {row}");
    }
}

#[test]
fn f_151_of_many_openers_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..20 {
        let start = Barrier::new(4);
        let end = Barrier::new(4);
        let open = || {
            start.wait();
            let ledger = Ledger::open(folder.path());
            end.wait();
            ledger.is_ok()
        };
        let won = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .filter(|won| *won)
                .count()
        });
        assert_eq!(won, 1);
    }
}

#[test]
fn the_lock_lasts_as_long_as_anything_writes() {
    let (folder, ledger) = job();
    let path = folder.path().join("job");
    let log = ledger.outcome_log().unwrap();
    drop(ledger);
    assert!(Ledger::open(&path).is_err());
    drop(log);
    assert!(Ledger::open(&path).is_ok());
}

#[cfg(unix)]
#[test]
fn f_147_f_199_the_folder_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    fn check(path: &Path) {
        let metadata = fs::metadata(path).unwrap();
        let mode = metadata.permissions().mode() & 0o777;
        assert_eq!(
            mode,
            if metadata.is_dir() { 0o700 } else { 0o600 },
            "{}",
            path.display()
        );
        if metadata.is_dir() {
            fs::read_dir(path)
                .unwrap()
                .for_each(|entry| check(&entry.unwrap().path()));
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("job");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let ledger = Ledger::open(&path).unwrap();
    super::seal(&ledger, 1, &[0]);
    ledger
        .outcome_log()
        .unwrap()
        .append_blocking(&[success(0)])
        .unwrap();
    check(&path);
    drop(ledger);

    // A link planted where a folder or a file of ours belongs is refused.
    let elsewhere = folder.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let job = folder.path().join("second");
    fs::create_dir(&job).unwrap();
    std::os::unix::fs::symlink(&elsewhere, job.join("segments")).unwrap();
    assert!(Ledger::open(&job).is_err());
    let job = folder.path().join("third");
    fs::create_dir(&job).unwrap();
    fs::write(elsewhere.join("file"), "").unwrap();
    std::os::unix::fs::symlink(elsewhere.join("file"), job.join("lock")).unwrap();
    assert!(Ledger::open(&job).is_err());
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1);

    // F-147: found before anything is spent.
    fs::write(folder.path().join("file"), "").unwrap();
    let error = Ledger::open(&folder.path().join("file/job")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
}
