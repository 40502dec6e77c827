//! Direct calls.

use crate::{Subject, world::World};
use batchwright_core::{
    Chat, Ending, ErrorKind, FinishReason, Message, Payload, Request, ResponseFormat, RetryClass,
};
use batchwright_emulator::{Cut, EmulatorConfig, FaultAction, Limits};
use serde_json::json;

/// An answer to the prompt, in any script, with what it used.
pub async fn an_answer_to_the_prompt(subject: &Subject) {
    let world = World::new(subject).await.allow(1);
    let text = "Wie heißt du? 名 😀";
    let answer = world.ask(&world.chat(text)).await.unwrap();
    assert!(answer.text().contains(&world.mark(text)), "I4");
    assert_eq!(answer.finish_reason, Some(FinishReason::Stop));
    assert!(answer.model.is_some());
    assert!(answer.raw.is_some(), "the body is kept");
    assert!(answer.usage.total_tokens().is_some(), "usage is told");
}

/// F-066: what an answer says was used is what the provider bills.
pub async fn f_066_usage_is_what_is_billed(subject: &Subject) {
    let world = World::new(subject).await;
    let answer = world.ask(&world.chat("two words")).await.unwrap();
    let bill = world.invoice().await;
    assert_eq!(bill.len(), 1);
    assert_eq!(answer.usage.input_tokens, Some(bill[0].input_tokens));
    assert_eq!(answer.usage.output_tokens, Some(bill[0].output_tokens));
}

/// F-062, F-063: what the model or a policy refuses is an answer that says so.
pub async fn f_062_f_063_a_refusal_is_told(subject: &Subject) {
    let world = World::new(subject).await;
    let refused = world.ask(&world.chat("[[refuse]]")).await.unwrap();
    assert!(matches!(refused.into_ending(), Ending::Refused(_)));
}

/// F-062: what a filter stops is told.
pub async fn f_062_a_filtered_answer_is_told(subject: &Subject) {
    let world = World::new(subject).await;
    let filtered = world.ask(&world.chat("[[filter]]")).await.unwrap();
    assert!(matches!(filtered.into_ending(), Ending::Refused(_)));
}

/// F-061: an answer that was cut off says so.
pub async fn f_061_a_cut_answer_is_told(subject: &Subject) {
    let world = World::new(subject).await;
    let cut = world.ask(&world.chat("[[length]]")).await.unwrap();
    assert!(cut.is_truncated());
}

/// A schema is obeyed.
pub async fn a_schema_is_obeyed(subject: &Subject) {
    let world = World::new(subject).await.allow(1);
    let format = ResponseFormat::JsonSchema {
        name: "c".into(),
        schema: json!({"type": "object", "properties": {"colour": {"type": "string"}},
            "required": ["colour"], "additionalProperties": false}),
        strict: true,
    };
    let chat = Chat::new([Message::user("a colour")]).with_response_format(format);
    let request = Request::new("row", subject.model, Payload::Chat(chat));
    let answer = world.ask(&world.bounded(request)).await.unwrap();
    let read: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
    assert!(read["colour"].is_string());
}

/// The vendor's errors keep their meaning: who must act, and what may follow; each call is sent once.
pub async fn failures_keep_their_class(subject: &Subject) {
    let world = World::new(subject).await;
    for (status, kind, class) in [
        (400, ErrorKind::InvalidRequest, RetryClass::RowFatal),
        (401, ErrorKind::Unauthenticated, RetryClass::JobStop),
        (403, ErrorKind::PermissionDenied, RetryClass::JobStop),
        (429, ErrorKind::RateLimited, RetryClass::Rejected),
        (500, ErrorKind::ProviderFault, RetryClass::Ambiguous),
        (503, ErrorKind::Overloaded, RetryClass::Rejected),
    ] {
        let before = world.calls(subject.routes.complete);
        let asked = world.chat(&format!("[[error:{status}]]"));
        let error = world.ask(&asked).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.class()),
            (kind, class),
            "{status}: {error}"
        );
        assert_eq!(error.status(), Some(status));
        assert_eq!(error.provider(), Some(world.realtime().name()));
        assert_eq!(error.model(), Some(subject.model));
        assert_eq!(
            world.calls(subject.routes.complete),
            before + 1,
            "sent once"
        );
    }
}

/// F-008: a model nobody has is a stop, not a row's fault.
pub async fn f_008_an_unknown_model_stops(subject: &Subject) {
    let world = World::new(subject).await.allow(1);
    let unknown = Request::chat("row", "no-such-model", [Message::user("x")]);
    let error = world.ask(&world.bounded(unknown)).await.unwrap_err();
    assert!(error.is_job_stop(), "{error}");
}

/// F-034, F-035: a connection that broke after sending may have been paid for, and nothing is sent again.
pub async fn f_034_f_035_a_dropped_call_is_ambiguous_and_sent_once(subject: &Subject) {
    let world = World::new(subject).await;
    for action in [
        FaultAction::CommitThenDrop,
        FaultAction::CutAfter {
            bytes: 20,
            how: Cut::Rst,
        },
    ] {
        world.fault(subject.routes.complete, action);
        let before = world.calls(subject.routes.complete);
        let error = world.ask(&world.chat("x")).await.unwrap_err();
        assert!(error.is_ambiguous(), "{error}");
        assert_eq!(world.calls(subject.routes.complete), before + 1);
    }
}

/// F-001, F-013: a call over the limit says so, and how long to wait.
pub async fn f_001_f_013_a_full_minute_says_how_long_to_wait(subject: &Subject) {
    let limits = Limits::default().with_requests_per_minute(2);
    let config = EmulatorConfig::default().with_limits(limits);
    let world = World::with(subject, config).await;
    for _ in 0..2 {
        world.ask(&world.chat("x")).await.unwrap();
    }
    let error = world.ask(&world.chat("x")).await.unwrap_err();
    assert!(error.is_rate_limited(), "{error}");
    assert!(error.retry_after().is_some(), "{error:?}");
}

/// The rate limits an answer tells are read, for pacing.
pub async fn rate_limits_are_read_from_answers(subject: &Subject) {
    let limits = Limits::default().with_tokens_per_minute(1_000_000);
    let config = EmulatorConfig::default().with_limits(limits);
    let world = World::with(subject, config).await;
    let answer = world.ask(&world.chat("x")).await.unwrap();
    let limit = answer.rate_limit.expect("the headers are read");
    assert_eq!(limit.limit_tokens, Some(1_000_000));
    assert!(limit.remaining_tokens.unwrap() < 1_000_000);
}
