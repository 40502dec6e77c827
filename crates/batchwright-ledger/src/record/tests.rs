//! The line against what serde makes of the same values.

use super::*;
use batchwright_core::{FinishReason, ToolCall};
use proptest::prelude::*;
use std::{sync::Arc, time::Duration};

/// The line's form, said to serde.
#[derive(Serialize)]
struct Reference<'a> {
    v: u32,
    row: u64,
    custom_id: &'a str,
    status: &'a str,
    output: Option<Box<RawValue>>,
    finish_reason: Option<&'a str>,
    usage: Option<Usage>,
    cost: Option<Box<RawValue>>,
    provenance: RecordProvenance<'a>,
    error: Option<RecordError<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct Call<'a> {
    tool: &'a str,
    id: &'a str,
    arguments: &'a str,
}

fn reference(row: u64, outcome: &Outcome, json_output: bool) -> String {
    let (response, error) = (outcome.response(), outcome.error());
    let origin = &outcome.provenance;
    let raw = |json: String| RawValue::from_string(json).unwrap();
    let output = response.and_then(|response| {
        if let [vector] = &*response.embeddings {
            return Some(raw(serde_json::to_string(vector).unwrap()));
        }
        if !response.embeddings.is_empty() {
            return Some(raw(serde_json::to_string(&response.embeddings).unwrap()));
        }
        let calls: Vec<_> = response
            .content
            .iter()
            .filter_map(|part| match part {
                Part::ToolCall(call) => Some(Call {
                    tool: &call.name,
                    id: &call.id,
                    arguments: &call.arguments,
                }),
                _ => None,
            })
            .collect();
        if !response.content.iter().any(|part| part.as_text().is_some()) {
            return (!calls.is_empty()).then(|| raw(serde_json::to_string(&calls).unwrap()));
        }
        let text = response.text();
        let own = RawValue::from_string(text.clone())
            .ok()
            .filter(|_| json_output);
        Some(own.unwrap_or_else(|| raw(serde_json::to_string(&text).unwrap())))
    });
    let cost = origin.cost.map(|cost| {
        let picodollars = cost.as_picodollars();
        let text = format!(
            "{}.{:012}",
            picodollars / 1_000_000_000_000,
            picodollars % 1_000_000_000_000
        );
        raw(text.trim_end_matches('0').trim_end_matches('.').to_owned())
    });
    let text = |text: &Option<String>| text.clone().map(Cow::Owned);
    let line = Reference {
        v: 1,
        row,
        custom_id: &outcome.custom_id,
        status: outcome.ending.as_str(),
        output,
        finish_reason: response
            .and_then(|response| Some(response.finish_reason.as_ref()?.as_str())),
        usage: response
            .map(|response| response.usage)
            .or_else(|| error.and_then(|error| error.usage().copied()))
            .filter(|usage| !usage.is_unknown()),
        cost,
        provenance: RecordProvenance {
            provider: origin.provider.as_deref().map(Cow::Borrowed),
            model: origin.model.as_deref().map(Cow::Borrowed),
            responded_model: response.and_then(|response| text(&response.model)),
            lane: origin.lane.map(|lane| Cow::Borrowed(lane.as_str())),
            batch: origin.batch.as_deref().map(Cow::Borrowed),
            attempts: origin.attempts,
            possibly_paid_attempts: origin.possibly_paid_attempts,
            latency_ms: origin.latency.map(|latency| latency.as_millis() as u64),
            cached: origin.cached,
            request_id: match response {
                Some(response) => text(&response.request_id),
                None => error.and_then(|error| error.request_id().map(Cow::Borrowed)),
            },
        },
        error: error.map(RecordError::of),
        raw: response
            .filter(|_| origin.lane != Some(Lane::Batch))
            .and_then(|response| Some(raw(response.raw.as_ref()?.get().to_owned()))),
    };
    serde_json::to_string(&line)
        .unwrap()
        .replace(['\n', '\r'], " ")
}

fn text() -> impl Strategy<Value = String> {
    "([a-z \"\\\\{}\n\r\t\\x00\u{7f}é]){0,24}|\\{\n\"a\": 1\\}"
}

fn maybe_text() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(text())
}

fn usage() -> impl Strategy<Value = Usage> {
    proptest::array::uniform5(proptest::option::of(0u64..=u64::MAX)).prop_map(|counters| {
        let mut usage = Usage::default();
        usage.input_tokens = counters[0];
        usage.output_tokens = counters[1];
        usage.cache_read_input_tokens = counters[2];
        usage.cache_creation_input_tokens = counters[3];
        usage.reasoning_tokens = counters[4];
        usage
    })
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let part = prop_oneof![
        3 => text().prop_map(Part::Text),
        1 => (text(), text(), text())
            .prop_map(|(id, name, arguments)| Part::ToolCall(ToolCall::new(id, name, arguments))),
    ];
    proptest::collection::vec(part, 0..3)
}

fn response() -> impl Strategy<Value = Response> {
    let vectors = proptest::collection::vec(
        proptest::collection::vec(proptest::num::f32::ANY, 0..3),
        0..3,
    );
    let vectors = prop_oneof![3 => Just(Vec::new()), 1 => vectors];
    (
        maybe_text(),
        parts(),
        vectors,
        maybe_text(),
        usage(),
        maybe_text(),
        0..4usize,
    )
        .prop_map(
            |(model, content, embeddings, finish, usage, request_id, raw)| {
                let mut response = Response::default();
                response.model = model;
                response.content = content;
                response.embeddings = embeddings;
                response.finish_reason = finish.map(FinishReason::Other);
                response.usage = usage;
                response.request_id = request_id;
                let raws = ["{\n  \"a\": 1.50,\r\n\"b\":\"\\n\"}", "null", "[]"];
                response.raw = raws.get(raw).map(|raw| RawJson::parse(*raw).unwrap());
                response
            },
        )
}

fn failure() -> impl Strategy<Value = Error> {
    (
        text(),
        maybe_text(),
        maybe_text(),
        proptest::option::of(100u16..600),
        usage(),
    )
        .prop_map(|(message, code, request_id, status, usage)| {
            let mut error = Error::new(ErrorKind::ProviderFault, message).with_usage(usage);
            if let Some(code) = code {
                error = error.with_code(code);
            }
            if let Some(request_id) = request_id {
                error = error.with_request_id(request_id);
            }
            if let Some(status) = status {
                error = error.with_status(status);
            }
            error
        })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let ending = prop_oneof![
        response().prop_map(Ending::Succeeded),
        response().prop_map(Ending::Refused),
        failure().prop_map(Ending::Failed),
        failure().prop_map(Ending::Unreadable),
        Just(Ending::Expired),
        Just(Ending::Missing),
    ];
    let cost = proptest::option::of(prop_oneof![
        0u64..=u64::MAX,
        (0u64..30_000).prop_map(|thousands| thousands * 1_000_000_000)
    ]);
    let origin = (
        maybe_text(),
        maybe_text(),
        proptest::option::of(0..2),
        0u32..9,
        proptest::option::of(0u64..1 << 40),
    );
    (ending, text(), cost, origin).prop_map(
        |(ending, id, cost, (provider, batch, lane, attempts, latency))| {
            let mut outcome = Outcome::new(id, ending);
            let provenance = &mut outcome.provenance;
            provenance.provider = provider.clone().map(Arc::from);
            provenance.model = provider.map(Arc::from);
            provenance.batch = batch.map(Arc::from);
            provenance.lane = lane.map(|lane| {
                if lane == 0 {
                    Lane::Batch
                } else {
                    Lane::Realtime
                }
            });
            provenance.attempts = attempts;
            provenance.possibly_paid_attempts = attempts / 2;
            provenance.cached = attempts == 1;
            provenance.latency = latency.map(Duration::from_millis);
            provenance.cost = cost.map(Money::from_picodollars);
            outcome
        },
    )
}

proptest! {
    #[test]
    fn a_line_is_what_serde_would_write_and_reads_back(outcome in outcome(), row in 0..MAX_ROW, json_output: bool) {
        let mut line = b"before".to_vec();
        OutcomeRecord::write(row, &outcome.custom_id, &outcome, json_output, &mut line);
        let line = str::from_utf8(&line[b"before".len()..]).unwrap();
        prop_assert_eq!(line, reference(row, &outcome, json_output));
        let record = OutcomeRecord::parse(line.as_bytes()).unwrap();
        let mut result = Vec::new();
        record.to_result_line(&mut result);
        let result = String::from_utf8(result).unwrap();
        let whole = line.replacen(&format!("\"v\":1,\"row\":{row},"), "", 1);
        // A cost is read as a floating point number, which holds fewer digits.
        if outcome.provenance.cost == record.cost {
            prop_assert!(whole.starts_with(&result[..result.len() - 1]), "{whole}\n{result}");
        }
        prop_assert_eq!(record.usage, outcome.response().map(|response| response.usage).or(outcome.error().and_then(|error| error.usage().copied())).filter(|usage| !usage.is_unknown()));
    }
}
