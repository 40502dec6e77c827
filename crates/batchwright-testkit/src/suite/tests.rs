//! Cases catch what they are there to catch.

use super::*;
use crate::{Double, Made, Place};
use async_trait::async_trait;
use batchwright_core::{
    BatchHandle, BatchProvider, BatchSnapshot, BatchSummary, ByteStream, Error, ErrorKind,
    InputRef, ListMark, Outcome, Request, Result, ResultFile, SealedBatch, SubmissionTag,
    SubmitError,
};
use batchwright_emulator::Face;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A line of an id and a text that is JSON already.
type Form = fn(id: &str, text: &str) -> String;

/// A provider of lines alone, written as `form` says.
#[derive(Clone)]
struct Lines {
    capability: Capability,
    form: Form,
}

fn nothing<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, "lines alone"))
}

#[async_trait]
impl BatchProvider for Lines {
    fn name(&self) -> &str {
        "lines"
    }

    fn capability(&self) -> &Capability {
        &self.capability
    }

    fn endpoint<'r>(&'r self, _: &'r Request) -> Result<&'r str> {
        Ok("/lines")
    }

    fn encode(&self, request: &Request, id: &str, line: &mut Vec<u8>) -> Result<()> {
        let batchwright_core::Payload::Chat(chat) = &request.payload else {
            return nothing();
        };
        let message = chat.messages.first();
        let part = message.and_then(|message| message.content.first());
        let text = part.and_then(|part| part.as_text()).unwrap_or_default();
        let text = serde_json::Value::from(text).to_string();
        line.extend((self.form)(id, &text).into_bytes());
        Ok(())
    }

    async fn submit(
        &self,
        _: &SealedBatch,
        _: &InputRef,
        _: &SubmissionTag,
    ) -> Result<BatchHandle, SubmitError> {
        nothing().map_err(SubmitError::NotSent)
    }

    async fn status(&self, _: &BatchHandle) -> Result<BatchSnapshot> {
        nothing()
    }

    async fn download(&self, _: &ResultFile, _: u64) -> Result<ByteStream> {
        nothing()
    }

    fn decode(&self, _: &[u8]) -> Option<Outcome> {
        None
    }

    async fn cancel(&self, _: &BatchHandle) -> Result<()> {
        nothing()
    }

    async fn recent(&self) -> Result<Vec<BatchSummary>> {
        nothing()
    }

    async fn list_since(&self, _: &ListMark) -> Result<Vec<BatchSummary>> {
        nothing()
    }
}

fn subject(form: Form) -> Subject {
    let mut capability = Capability::default();
    let mut limits = BatchLimits::new(vec!["/lines".to_owned()], 10, 1000);
    limits.input = BatchInput::Inline;
    capability.batch = Some(limits);
    let lines = Lines { capability, form };
    Subject::new(
        "lines",
        Face::OpenAi,
        "m",
        Routes::default(),
        move |_: &Place| Ok(Made::batch(lines.clone())),
    )
}

fn holds(case: &str, subject: &Subject) -> bool {
    let case = cases().into_iter().find(|known| known.name == case);
    let case = case.expect("a case of this name");
    assert_eq!(case.ignored(subject), None);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    catch_unwind(AssertUnwindSafe(|| runtime.block_on(case.run(subject)))).is_ok()
}

#[test]
fn only_a_line_with_its_id_once_and_first_can_be_copied() {
    let case = "lines::another_attempt_is_a_copy_with_the_prefix_exchanged";
    let forms: [(Form, bool); 5] = [
        (|id, text| format!(r#"{{"id":"{id}","text":{text}}}"#), true),
        // A second place keeps the old id.
        (
            |id, text| format!(r#"{{"id":"{id}","text":{text},"label":"{id}"}}"#),
            false,
        ),
        // A prompt may hold what looks like one.
        (
            |id, text| format!(r#"{{"text":{text},"id":"{id}"}}"#),
            false,
        ),
        (
            |id, text| format!("{{\"id\":\"{id}\",\n\"text\":{text}}}"),
            false,
        ),
        (|_, text| format!(r#"{{"text":{text}}}"#), false),
    ];
    for (form, good) in forms {
        assert_eq!(holds(case, &subject(form)), good, "{}", form("i", "\"t\""));
    }
}

#[test]
fn what_a_provider_lacks_is_ignored_with_the_reason() {
    let subject = subject(|_, _| String::new()).without("life::one_row_is_a_batch", "by choice");
    let reason = |name: &str| {
        let case = cases().into_iter().find(|case| case.name == name);
        case.expect("a case of this name").ignored(&subject)
    };
    let chosen = reason("life::one_row_is_a_batch");
    assert_eq!(chosen.as_deref(), Some("by choice"));
    for (name, part) in [
        ("realtime::a_schema_is_obeyed", "no direct calls"),
        (
            "files::an_upload_that_breaks_off_is_found",
            "carries the lines",
        ),
        (
            "create::f_116_the_list_is_read_page_by_page",
            "cannot tell whose",
        ),
        ("life::f_089_a_poll_outlives_bad_answers", "not named"),
    ] {
        assert!(reason(name).unwrap().contains(part), "{name}");
    }
    assert_eq!(reason("lines::f_176_our_ids_are_allowed"), None);
}

#[test]
#[should_panic(expected = "no case is called")]
fn leaving_out_what_is_not_there_is_a_mistake() {
    let _ = run(vec![
        subject(|_, _| String::new()).without("life::gone", "why"),
    ]);
}

/// A server that is never started.
struct Absent;

impl Double for Absent {
    fn base_url(&self) -> String {
        "http://127.0.0.1:1".to_owned()
    }
}

#[test]
fn what_a_double_cannot_do_is_ignored_with_the_reason() {
    let ignored = |name: &str, powers| {
        let make = |_: &Place| {
            let mut limits = BatchLimits::new(vec!["/lines".to_owned()], 10, 1000);
            limits.input = BatchInput::Inline;
            let mut capability = Capability::default();
            capability.batch = Some(limits);
            let form: Form = |_, _| String::new();
            Ok(Made::batch(Lines { capability, form }))
        };
        let route = Some(crate::Route::new("POST", "/x"));
        let routes = Routes {
            create: route,
            results: route,
            ..Routes::default()
        };
        let subject = Subject::double("d", "m", routes, powers, async || Absent, make);
        let case = cases().into_iter().find(|case| case.name == name);
        case.expect("a case of this name").ignored(&subject)
    };
    let clockless = Powers::ALL.with_clock(false);
    let markless = Powers::ALL.with_marks(false);
    let mute = Powers::ALL.with_directives(false);
    let free = Powers::ALL.with_invoice(false);
    for (name, powers, part) in [
        ("life::one_row_is_a_batch", clockless, "clock"),
        ("life::one_row_is_a_batch", markless, "tell the prompt"),
        ("life::f_063_a_refusal_is_an_answer", mute, "directives"),
        ("life::f_066_usage_is_what_is_billed", free, "invoice"),
        (
            "endings::f_104_a_hollow_line_harms_its_own_row",
            Powers::ALL,
            "only the emulator",
        ),
    ] {
        let reason = ignored(name, powers).expect(name);
        assert!(reason.contains(part), "{name}: {reason}");
        if part != "only the emulator" {
            assert_eq!(ignored(name, Powers::ALL), None, "{name}");
        }
    }
    // What happens on the wire needs nothing of it.
    for name in [
        "create::a_refused_create_bought_nothing",
        "secrets::f_192_f_203_the_key_shows_in_no_error",
    ] {
        assert_eq!(ignored(name, Powers::NONE), None, "{name}");
    }
}
