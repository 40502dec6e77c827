//! Wrong commands, wrong files and wrong names: each is told before anything is sent.

use crate::{
    command::{Ended, KEY, Place},
    input::{self, PROMPT},
    provider::{BATCHES, CHAT, Provider},
};
use std::{io::ErrorKind, net::TcpListener};

const CANARY: &str = "canary-prompt-text";

/// A provider's address at which nobody may knock.
struct Silence(TcpListener);

impl Silence {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn place(&self) -> Place {
        let place = Place::at(&format!("http://{}/v1", self.0.local_addr().unwrap()));
        place.write("in.csv", "id,word\n1,one\n2,two\n");
        place
    }

    fn assert_nothing_sent(&self, about: &Ended) {
        let knock = self.0.accept();
        assert!(
            matches!(&knock, Err(error) if error.kind() == ErrorKind::WouldBlock),
            "something was sent: {about:?}"
        );
    }
}

/// Each of these ends with its code, says its words, and sends nothing.
fn assert_told(prepare: impl Fn(&Place), cases: &[(&[&str], i32, &[&str])]) {
    let silence = Silence::new();
    for (arguments, code, words) in cases {
        let place = silence.place();
        prepare(&place);
        let before = listing(&place);
        let ended = place.run(arguments).assert_code(*code).assert_says(words);
        silence.assert_nothing_sent(&ended);
        assert!(!ended.stderr.contains(CANARY), "{ended:?}");
        assert_eq!(ended.stdout, "", "{ended:?}");
        for name in listing(&place) {
            assert!(
                before.contains(&name) || name == ".batchwright",
                "{arguments:?} leaves {name} behind"
            );
        }
    }
}

fn listing(place: &Place) -> Vec<String> {
    std::fs::read_dir(place.dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

const M: &str = "openai:gpt-4o-mini";

#[test]
fn wrong_command_lines_end_with_2() {
    assert_told(
        |_| {},
        &[
            (&["run", "in.csv", "--colour"], 2, &["--colour"]),
            (&["run"], 2, &["INPUT"]),
            (&["walk"], 2, &["walk"]),
            (
                &["run", "in.csv", "-m", M, "-p", PROMPT, "--concurrency", "0"],
                2,
                &["--concurrency"],
            ),
            (
                &["run", "in.csv", "-m", M, "-p", PROMPT, "--temperature", "3"],
                2,
                &["temperature", "0 to 2"],
            ),
            (
                &[
                    "run",
                    "in.csv",
                    "-m",
                    M,
                    "-p",
                    PROMPT,
                    "--temperature",
                    "NaN",
                ],
                2,
                &["temperature"],
            ),
            (
                &[
                    "run",
                    "in.csv",
                    "-m",
                    M,
                    "-p",
                    PROMPT,
                    "--max-output-tokens",
                    "0",
                ],
                2,
                &["token"],
            ),
            (
                &["run", "in.csv", "-m", M, "-p", PROMPT, "--chunk-rows", "0"],
                2,
                &["--chunk-rows"],
            ),
            (
                &["run", "in.csv", "-m", M, "-p", PROMPT, "--poll", "5"],
                2,
                &["--poll", "unit"],
            ),
            (
                &["run", "in.csv", "-m", M, "-p", PROMPT, "--lane", "slow"],
                2,
                &["--lane"],
            ),
            (
                &["run", "in.csv", "-m", "gpt-4o-mini", "-p", PROMPT],
                2,
                &["--model"],
            ),
            (
                &["run", "in.csv", "-m", "acme:gpt", "-p", PROMPT],
                2,
                &["acme", "openai"],
            ),
            (
                &["run", "in.csv", "-m", M, "-p", PROMPT, "--job", "../up"],
                2,
                &["name"],
            ),
            (
                &["run", "in.csv", "-m", M, "-p", PROMPT, "--job", ".hidden"],
                2,
                &["name"],
            ),
            (
                &["run", "in.csv", "-m", M, "-p", PROMPT, "--quiet", "--json"],
                2,
                &["--quiet"],
            ),
            (
                &[
                    "run",
                    "in.csv",
                    "-m",
                    M,
                    "-p",
                    PROMPT,
                    "-o",
                    "o.csv",
                    "--unordered",
                ],
                2,
                &["--unordered"],
            ),
        ],
    );
}

#[test]
fn wrong_settings_end_with_2_and_send_nothing() {
    assert_told(
        |place| {
            place.write("bad.json", "{\"type\": ");
            place.write("list.json", "[]");
            place.write("keys.env", format!("OPENAI_ORG_ID=o\nnonsense {CANARY}\n"));
            place.write("prices.json", "{\"no\": \"prices\"}");
            place.write("cut.txt", b"Say \xff\xfe {{ word }}");
        },
        &[
            (
                &[
                    "run",
                    "in.csv",
                    "-m",
                    M,
                    "-p",
                    "canary-prompt-text {{ wrod }}",
                ],
                2,
                &["wrod", "word", "id"],
            ),
            (
                &["run", "in.csv", "-m", M, "-p", "canary-prompt-text {{ word"],
                2,
                &["prompt"],
            ),
            (
                &[
                    "run",
                    "in.csv",
                    "-m",
                    M,
                    "-p",
                    PROMPT,
                    "--system",
                    "canary-prompt-text {% if %}",
                ],
                2,
                &["system"],
            ),
            (&["run", "in.csv", "-p", PROMPT], 2, &["model"]),
            (&["run", "in.csv", "-m", M], 2, &["a prompt is needed"]),
            (
                &["run", "in.csv", "-m", M, "-p", PROMPT, "--id-column", "key"],
                2,
                &["key", "word"],
            ),
            (
                &[
                    "run", "in.csv", "-m", M, "-p", PROMPT, "--schema", "bad.json",
                ],
                2,
                &["bad.json", "line 1"],
            ),
            (
                &[
                    "run",
                    "in.csv",
                    "-m",
                    M,
                    "-p",
                    PROMPT,
                    "--schema",
                    "list.json",
                ],
                2,
                &["list.json", "object"],
            ),
            (
                &[
                    "run",
                    "in.csv",
                    "-m",
                    M,
                    "-p",
                    PROMPT,
                    "--schema",
                    "none.json",
                ],
                2,
                &["none.json"],
            ),
            (
                &["run", "in.csv", "-m", M, "--prompt-file", "none.txt"],
                2,
                &["none.txt"],
            ),
            (
                &["run", "in.csv", "-m", M, "--prompt-file", "cut.txt"],
                2,
                &["cut.txt", "UTF-8"],
            ),
            (
                &[
                    "run",
                    "in.csv",
                    "-m",
                    M,
                    "-p",
                    PROMPT,
                    "--env-file",
                    "none.env",
                ],
                2,
                &["none.env"],
            ),
            (
                &[
                    "run",
                    "in.csv",
                    "-m",
                    M,
                    "-p",
                    PROMPT,
                    "--env-file",
                    "keys.env",
                ],
                2,
                &["keys.env:2"],
            ),
            (
                &[
                    "run",
                    "in.csv",
                    "-m",
                    M,
                    "-p",
                    PROMPT,
                    "--prices",
                    "prices.json",
                ],
                2,
                &["prices.json"],
            ),
            (
                &[
                    "run",
                    "in.csv",
                    "-m",
                    M,
                    "-p",
                    PROMPT,
                    "--prices",
                    "none.json",
                ],
                2,
                &["none.json"],
            ),
        ],
    );
}

#[test]
fn f_166_f_174_f_177_wrong_inputs_end_with_2_and_name_file_and_line() {
    assert_told(
        |place| {
            place.write(
                "ragged.csv",
                format!("id,word\n1,one\n2,{CANARY},too many\n"),
            );
            place.write("bytes.csv", b"id,word\n1,one\n2,\xff\xfe\n");
            place.write(
                "twice.csv",
                format!("id,word\n{CANARY},one\nb,two\n{CANARY},three\n"),
            );
            place.write(
                "cut.jsonl",
                format!("{{\"word\":\"one\"}}\n{{\"word\":\"{CANARY}\n"),
            );
            std::fs::create_dir(place.path("folder.csv")).unwrap();
        },
        &[
            (
                &["run", "none.csv", "-m", M, "-p", PROMPT],
                2,
                &["none.csv"],
            ),
            (
                &["run", "folder.csv", "-m", M, "-p", PROMPT],
                2,
                &["folder.csv", "folder"],
            ),
            (
                &["run", "ragged.csv", "-m", M, "-p", PROMPT],
                2,
                &["ragged.csv:3", "nothing was sent"],
            ),
            (
                &["run", "bytes.csv", "-m", M, "-p", PROMPT],
                2,
                &["bytes.csv:3", "UTF-8"],
            ),
            (
                &["run", "twice.csv", "-m", M, "-p", PROMPT],
                2,
                &["twice.csv:4", "line 2"],
            ),
            (
                &["run", "cut.jsonl", "-m", M, "-p", PROMPT],
                2,
                &["cut.jsonl:2"],
            ),
        ],
    );
}

#[test]
fn f_147_results_that_could_not_be_written_are_told_before_anything_is_sent() {
    let silence = Silence::new();
    let place = silence.place();
    std::fs::create_dir(place.path("folder")).unwrap();
    std::os::unix::fs::symlink("in.csv", place.path("link.csv")).unwrap();
    let input = place.read("in.csv");
    let absolute = place.path("in.csv");
    for (output, words) in [
        ("none/out.csv", ["none", "folder"]),
        ("in.csv", ["in.csv", "input"]),
        ("./folder/../in.csv", ["in.csv", "input"]),
        ("link.csv", ["link.csv", "input"]),
        (absolute.to_str().unwrap(), ["in.csv", "input"]),
        ("folder", ["folder", "form"]),
        ("in.csv/out.csv", ["in.csv/out.csv", "folder"]),
        ("out.txt", ["out.txt", ".jsonl"]),
        ("/proc/out.csv", ["/proc/out.csv", "write results"]),
    ] {
        for sandbox in [&[][..], &["--sandbox"]] {
            let mut command = vec!["run", "in.csv", "-m", M, "-p", PROMPT, "-o", output];
            command.extend(sandbox);
            let ended = place.run(&command).assert_code(2).assert_says(&words);
            silence.assert_nothing_sent(&ended);
            assert_eq!(place.read("in.csv"), input, "the input is as it was");
        }
    }
    let mut left = listing(&place);
    left.sort();
    assert_eq!(left, ["folder", "in.csv", "link.csv"], "no job was begun");
}

#[test]
fn no_key_is_told_by_the_name_it_should_have() {
    let silence = Silence::new();
    let url = format!("http://{}/v1", silence.0.local_addr().unwrap());
    for place in [
        Place::bare().with("OPENAI_BASE_URL", &url),
        Place::bare()
            .with("OPENAI_BASE_URL", &url)
            .with("OPENAI_API_KEY", ""),
    ] {
        place.write("in.csv", "id,word\n1,one\n");
        let ended = place
            .run(&["run", "in.csv", "-m", M, "-p", PROMPT])
            .assert_code(2)
            .assert_says(&["OPENAI_API_KEY"]);
        silence.assert_nothing_sent(&ended);
        assert!(!place.path(".batchwright").exists());
    }
    // A key from a file serves as well as one from the environment.
    let provider = Provider::new();
    let place = Place::bare();
    place.write("in.csv", "id,word\n1,one\n");
    place.write(
        "keys.env",
        format!(
            "export OPENAI_API_KEY='{KEY}'\nOPENAI_BASE_URL={}\n",
            provider.base_url()
        ),
    );
    place
        .run(&[
            "run",
            "in.csv",
            "-m",
            M,
            "-p",
            PROMPT,
            "--env-file",
            "keys.env",
        ])
        .assert_code(0);
    assert_eq!(provider.calls("POST", CHAT), 1);
}

#[test]
fn f_175_an_input_without_rows_is_done_without_a_call() {
    let silence = Silence::new();
    let place = silence.place();
    for (name, content) in [
        ("empty.csv", ""),
        ("head.csv", "id,word\n"),
        ("empty.jsonl", ""),
        ("blank.jsonl", "\n\n"),
        ("empty.json", "[]"),
    ] {
        place.write(name, content);
        for lane in ["realtime", "batch"] {
            let job = format!("{}-{lane}", name.replace('.', "-"));
            let ended = place
                .run(&[
                    "run",
                    name,
                    "-m",
                    M,
                    "-p",
                    PROMPT,
                    "--lane",
                    lane,
                    "--job",
                    &job,
                    "-o",
                    "out.jsonl",
                ])
                .assert_code(0)
                .assert_says(&["no rows"]);
            silence.assert_nothing_sent(&ended);
            assert_eq!(place.read("out.jsonl"), "");
            place.assert_verified(&job);
        }
    }
}

#[test]
fn f_027_an_unknown_model_stops_after_a_few_calls() {
    for lane in ["realtime", "batch"] {
        let provider = Provider::new();
        let place = Place::of(&provider);
        let (csv, _) = input::words(200);
        place.write("in.csv", csv);
        let ended = place
            .run(&[
                "run",
                "in.csv",
                "-m",
                "openai:gpt-9-ultra",
                "-p",
                PROMPT,
                "--job",
                "j",
                "--lane",
                lane,
                "--poll",
                "50ms",
                "--concurrency",
                "4",
                "-o",
                "out.jsonl",
            ])
            .assert_says(&["gpt-9-ultra"]);
        assert!(provider.invoice().is_empty());
        assert!(!ended.stderr.contains("Say word"), "{ended:?}");
        // The model is the job's fault, not the rows': they are kept for a run that names another.
        assert_eq!(ended.status.code(), Some(5), "{ended:?}");
        if lane == "realtime" {
            assert!(
                provider.calls("POST", CHAT) <= 5,
                "{}",
                provider.calls("POST", CHAT)
            );
        } else {
            assert_eq!(provider.calls("POST", BATCHES), 1);
        }
    }
}

#[test]
fn f_121_f_156_a_job_goes_on_with_its_own_input_and_settings_only() {
    let provider = Provider::new();
    let place = Place::of(&provider);
    let (csv, _) = input::words(10);
    place.write("in.csv", &csv);
    let job = ["run", "in.csv", "-m", M, "--job", "j", "-o", "out.jsonl"];
    let run = |more: &[&str]| place.run(&[&job[..], more].concat());
    run(&["-p", PROMPT]).assert_code(0);
    let calls = provider.paid_calls();

    let ended = run(&["-p", "canary-prompt-text {{ word }}"])
        .assert_code(2)
        .assert_says(&["prompt", "other settings"]);
    assert!(!ended.stderr.contains(CANARY), "{ended:?}");
    run(&["-p", PROMPT, "--lane", "batch"])
        .assert_code(2)
        .assert_says(&["lane"]);
    run(&["-p", PROMPT, "--temperature", "1", "--system", "x"])
        .assert_code(2)
        .assert_says(&["system prompt, parameters"]);
    run(&["-p", PROMPT, "--sandbox"])
        .assert_code(2)
        .assert_says(&["sandbox"]);

    place.write("in.csv", csv.replacen("id,word\n", "id,word\nnew,row\n", 1));
    for again in [
        &[&job[..], &["-p", PROMPT]].concat()[..],
        &["resume", "j"],
        &["cancel", "j"],
    ] {
        place
            .run(again)
            .assert_code(2)
            .assert_says(&["in.csv", "changed"]);
    }
    std::fs::remove_file(place.path("in.csv")).unwrap();
    place
        .run(&["resume", "j"])
        .assert_code(2)
        .assert_says(&["in.csv"]);
    assert_eq!(provider.paid_calls(), calls);
}

#[test]
fn an_unknown_job_is_told_by_its_name() {
    let provider = Provider::new();
    let place = Place::of(&provider);
    for command in ["status", "results", "verify", "resume", "cancel"] {
        place
            .run(&[command, "nobody"])
            .assert_code(2)
            .assert_says(&["nobody", "batchwright jobs"]);
        place.run(&[command, "../nobody"]).assert_code(2);
    }
    assert!(!place.path(".batchwright").exists());
    let jobs = place.run(&["jobs", "--json"]).assert_code(0);
    assert_eq!(jobs.stdout, "");
}
