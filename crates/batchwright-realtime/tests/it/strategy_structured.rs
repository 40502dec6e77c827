//! Answers held to a schema and read into types.

use crate::{
    double::options,
    strategy_double::{Asked, error_of, once, prices, request, run_one, said, turns},
};
use batchwright_core::{
    Ending, Error, ErrorKind, FinishReason, Money, Part, Payload, Request, Response,
    ResponseFormat, Result, RetryPolicy, ToolCall, Usage,
};
use batchwright_realtime::{ItemState, Rejection, Strategy, Structured, Validated};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

fn schema() -> Value {
    json!({
        "title": "A tree!",
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "age": {"type": "integer", "minimum": 0},
            "kind": {"enum": ["oak", "elm"]},
            "rings": {"type": "array", "items": {"type": "object", "properties": {"width": {"type": "number"}}}},
            "notes": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "required": ["name", "age"],
        "additionalProperties": false,
    })
}

fn validated(asked: &Arc<Asked>) -> Validated {
    Validated::new(asked.direct(), &schema()).unwrap()
}

fn answering(answer: &str) -> Arc<Asked> {
    let answer = answer.to_owned();
    Asked::new(move |_, _| (Duration::ZERO, Ok(said(&answer))))
}

async fn judge(answer: &str) -> Result<String> {
    let strategy = validated(&answering(answer));
    let executed = once(&strategy, &request("0"), &mut ItemState::default()).await?;
    let Ending::Succeeded(response) = executed.ending else {
        panic!("neither")
    };
    Ok(response.text())
}

#[tokio::test]
async fn a_16_a_39_answers_that_fit_are_used_and_others_name_the_fields() {
    let oak = r#"{"name":"CANARY","age":9}"#;
    let fits = [
        oak.to_owned(),
        format!("```json\n{oak}\n```"),
        format!("Sure, as in [1] and {{\"a\":1}}: {oak} Hope it helps."),
        format!("{oak}\n{oak}"),
    ];
    for answer in fits {
        assert_eq!(judge(&answer).await.unwrap(), oak, "{answer}");
    }
    let misfits = [
        (r#"{"name":"CANARY"}"#, "/age is required and missing"),
        (
            r#"{"name":"CANARY","age":"CANARY"}"#,
            "/age must be of type integer",
        ),
        (r#"{"name":"CANARY","age":-1}"#, "/age must be at least 0"),
        (
            r#"{"name":"CANARY","age":1,"kind":"CANARY"}"#,
            r#"/kind must be one of ["oak","elm"]"#,
        ),
        (
            r#"{"name":"CANARY","age":1,"rings":[{"width":1},{"width":"CANARY"}]}"#,
            "/rings/1/width must be of type number",
        ),
        (
            r#"{"name":"CANARY","age":1,"CANARY":1,"CANARY-2":1}"#,
            "has 2 more properties than the schema knows",
        ),
        (
            r#"{"name":"CANARY","age":1,"notes":{"CANARY":1}}"#,
            "/notes/* must be of type string",
        ),
        (
            r#"{"name":"CANARY","age":1} or {"name":"CANARY","age":2}"#,
            "it holds 2 values that fit, and one was asked for",
        ),
        ("", "it is empty"),
        ("CANARY", "it holds no whole JSON value"),
        (
            r#"{"name": CANARY}"#,
            "it is not JSON: expected value at line 1 column 10",
        ),
        ("[7]", "must be of type object"),
    ];
    for (answer, expected) in misfits {
        let error = judge(answer).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOutput);
        assert_eq!(
            error.message(),
            format!("use the answer: {expected}"),
            "{answer}"
        );
        assert_eq!(error.usage(), Some(&Usage::of(100, 10)));
        // F-191: not even the cause shows what the model said.
        let cause = std::error::Error::source(&error).unwrap();
        let shown = format!("{error} {error:?} {cause} {cause:?}");
        assert!(!shown.contains("CANARY"), "{shown}");
        assert_eq!(cause.downcast_ref::<Rejection>().unwrap().answer(), answer);
    }
}

#[tokio::test]
async fn a_39_f_061_f_062_a_cut_answer_is_rejected_and_a_refusal_is_left_one() {
    let ending = |reason: FinishReason, text: &'static str| {
        let asked = Asked::new(move |_, _| {
            let mut response = said(text);
            response.finish_reason = Some(reason.clone());
            (Duration::ZERO, Ok(response))
        });
        async move { once(&validated(&asked), &request("0"), &mut ItemState::default()).await }
    };
    let whole = r#"{"name":"x","age":9}"#;
    let error = error_of(ending(FinishReason::Length, whole).await);
    assert_eq!(error.kind(), ErrorKind::InvalidOutput);
    assert!(
        error.message().contains("cut off at the token limit"),
        "{error}"
    );
    for reason in [FinishReason::Refusal, FinishReason::ContentFilter] {
        let executed = ending(reason, "no").await.unwrap();
        assert!(matches!(executed.ending, Ending::Refused(_)));
        assert_eq!(executed.usage, Usage::of(100, 10));
    }
    let asked = Asked::new(|_, _| {
        let mut response = said("");
        response.content = vec![Part::ToolCall(ToolCall::new("1", "look", "{}"))];
        (Duration::ZERO, Ok(response))
    });
    let error = error_of(once(&validated(&asked), &request("0"), &mut ItemState::default()).await);
    assert_eq!(
        error.message(),
        "use the answer: it asks for a tool and says nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn a_41_the_next_attempt_tells_the_model_what_passed_and_what_failed() {
    let asked = Asked::saying(&[
        r#"{"name":"oak","age":-1,"mystery":2,"kind":"oak"}"#,
        r#"{"name":"oak"}"#,
        r#"{"name":"oak","age":1}"#,
    ]);
    let strategy = validated(&asked);
    let outcome = run_one(
        Arc::new(strategy),
        options(1).with_prices(prices(&["small"])),
    )
    .await;
    assert!(outcome.ending.is_success());
    let asked: Vec<_> = asked.seen("0").iter().map(turns).collect();
    assert_eq!(asked[0].len(), 1);
    let [_, (assistant, answer), (user, told)] = &asked[1][..] else {
        panic!("{asked:?}")
    };
    assert_eq!((&**assistant, &**user), ("Assistant", "User"));
    assert_eq!(
        answer,
        r#"{"name":"oak","age":-1,"mystery":2,"kind":"oak"}"#
    );
    for line in [
        "These fields are right: kind, name.\n",
        "- /age: must be at least 0\n",
        "- the whole answer: has properties the schema does not know: mystery\n",
    ] {
        assert!(told.contains(line), "{told}");
    }
    // Only the last rejection is told of.
    assert_eq!(asked[2].len(), 3);
    assert!(
        asked[2][2].1.contains("- /age: is required and missing\n"),
        "{:?}",
        asked[2]
    );
    // What was rejected was paid, and is counted.
    assert_eq!(outcome.provenance.attempts, 3);
    assert_eq!(outcome.provenance.discarded_usage, Usage::of(200, 20));
    assert_eq!(outcome.provenance.cost, Money::from_dollars(600e-6));
}

#[tokio::test(start_paused = true)]
async fn a_41_feedback_is_bounded_and_can_be_turned_off() {
    let long: &'static str = Box::leak(format!("é{}", "é".repeat(10_000)).into_boxed_str());
    let answers: &'static [&'static str] =
        Box::leak(vec![long, "{\"name\":\"a\",\"age\":1}"].into_boxed_slice());
    for (bytes, turned) in [(100, 3), (0, 1)] {
        let asked = Asked::saying(answers);
        let strategy = validated(&asked).with_feedback(bytes);
        assert!(
            run_one(Arc::new(strategy), options(1))
                .await
                .ending
                .is_success()
        );
        let told = turns(&asked.seen("0")[1]);
        assert_eq!(told.len(), turned);
        if turned == 3 {
            assert!(told[1].1.len() < bytes + 20);
        }
    }
    // A vendor refuses a turn without content.
    let asked = Asked::saying(&["", "{\"name\":\"a\",\"age\":1}"]);
    assert!(
        run_one(Arc::new(validated(&asked)), options(1))
            .await
            .ending
            .is_success()
    );
    assert_eq!(turns(&asked.seen("0")[1]).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_39_an_answer_that_never_fits_ends_with_what_it_cost() {
    let asked = Asked::saying(&["no"]);
    let options = options(1).with_prices(prices(&["small"]));
    let outcome = run_one(Arc::new(validated(&asked)), options).await;
    let error = outcome.error().unwrap();
    assert_eq!(
        (error.kind(), error.attempts()),
        (ErrorKind::InvalidOutput, 3)
    );
    assert_eq!(outcome.provenance.discarded_usage, Usage::of(300, 30));
    assert_eq!(outcome.provenance.cost, Money::from_dollars(600e-6));
    assert_eq!(outcome.provenance.possibly_paid_attempts, 0);
    assert_eq!(asked.count(), 3);
    let asked = Asked::saying(&["no"]);
    let mut retry = RetryPolicy::default();
    retry.max_invalid_retries = 0;
    run_one(
        Arc::new(validated(&asked)),
        crate::double::options(1).with_retry(retry),
    )
    .await;
    assert_eq!(asked.count(), 1);
}

fn format_of(request: &Request) -> ResponseFormat {
    let Payload::Chat(chat) = &request.payload else {
        panic!()
    };
    chat.response_format.clone()
}

#[tokio::test]
async fn a_16_the_schema_is_asked_for_unless_the_request_asks_for_something() {
    let good = "{\"name\":\"a\",\"age\":1}";
    let asked = answering(good);
    let ask = async |strategy: Validated, request: &Request| {
        once(&strategy, request, &mut ItemState::default())
            .await
            .unwrap();
        format_of(asked.seen("0").last().unwrap())
    };
    let as_schema = |strict| ResponseFormat::JsonSchema {
        name: "Atree".into(),
        schema: schema(),
        strict,
    };
    let plain = request("0");
    assert_eq!(ask(validated(&asked), &plain).await, as_schema(false));
    assert_eq!(
        ask(validated(&asked).with_strict(true), &plain).await,
        as_schema(true)
    );
    let json = validated(&asked).with_response_format(ResponseFormat::Json);
    assert_eq!(ask(json, &plain).await, ResponseFormat::Json);
    let text = validated(&asked).with_response_format(ResponseFormat::Text);
    assert_eq!(ask(text, &plain).await, ResponseFormat::Text);
    let mut own = plain.clone();
    if let Payload::Chat(chat) = &mut own.payload {
        chat.response_format = ResponseFormat::Json;
    }
    assert_eq!(ask(validated(&asked), &own).await, ResponseFormat::Json);
    // A raw body is sent as it is, and its answer judged; what is embedded has no answer.
    let body = serde_json::value::RawValue::from_string("{\"model\":\"small\"}".into()).unwrap();
    let raw = Request::raw("0", "/v1", body).unwrap();
    let mut state = ItemState::default();
    assert!(once(&validated(&asked), &raw, &mut state).await.is_ok());
    assert!(
        once(&validated(&answering("no")), &raw, &mut state)
            .await
            .is_err()
    );
    let embedding = Request::embedding("0", "small", "x");
    let error = error_of(once(&validated(&asked), &embedding, &mut state).await);
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn a_16_a_schema_that_is_none_or_lies_elsewhere_is_refused_at_once() {
    for schema in [
        json!({"type": "no such type"}),
        json!({"$ref": "https://example.com/schema.json"}),
        json!({"$ref": "file:///etc/passwd"}),
        json!({"type": "string", "pattern": "("}),
    ] {
        let error = Validated::new(Asked::saying(&["x"]).direct(), &schema)
            .err()
            .unwrap();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{schema}");
    }
}

#[derive(Debug, PartialEq, JsonSchema, Deserialize)]
struct Tree {
    name: String,
    age: u32,
    mark: Option<String>,
    kind: Kind,
    #[serde(default)]
    notes: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq, JsonSchema, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
enum Kind {
    Oak,
    Other { word: String },
}

fn structured(asked: &Arc<Asked>) -> Structured<Tree> {
    Structured::new(asked.direct()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_16_a_23_an_answer_becomes_a_value_of_the_type() {
    let asked = Asked::saying(&[
        r#"{"name":"x","age":-4,"kind":{"is":"oak"}}"#,
        r#"{"name":"x","age":900,"kind":{"is":"oak"}}"#,
        r#"Here: {"name":"x","age":4,"mark":null,"kind":{"is":"other","word":"w"},"notes":{"a":"b"}}"#,
    ]);
    let strategy = structured(&asked).with_check(|tree| {
        (tree.age < 500)
            .then_some(())
            .ok_or_else(|| format!("CANARY: {} is too old", tree.age))
    });
    let outcome = run_one(Arc::new(strategy), options(1)).await;
    let Ending::Succeeded(tree) = outcome.ending else {
        panic!("{:?}", outcome.ending)
    };
    let expected = Tree {
        name: "x".into(),
        age: 4,
        mark: None,
        kind: Kind::Other { word: "w".into() },
        notes: [("a".into(), "b".into())].into(),
    };
    assert_eq!(tree, expected);
    assert_eq!(outcome.provenance.discarded_usage, Usage::of(200, 20));
    let asked = asked.seen("0");
    assert!(turns(&asked[1])[2].1.contains("- /age: must be at least 0"));
    assert!(turns(&asked[2])[2].1.contains("CANARY: 900 is too old"));
    // The schema that is sent is closed, whole and without bounds.
    let ResponseFormat::JsonSchema {
        name,
        schema,
        strict,
    } = format_of(&asked[0])
    else {
        panic!()
    };
    assert_eq!((&*name, strict), ("Tree", false));
    assert_eq!(schema["additionalProperties"], json!(false));
    assert_eq!(schema["required"].as_array().unwrap().len(), 5);
    assert_eq!(schema["properties"]["age"], json!({"type": "integer"}));
}

#[tokio::test]
async fn a_16_f_191_a_check_and_a_type_keep_what_they_say_out_of_the_error() {
    let good = r#"{"name":"CANARY","age":1,"kind":{"is":"oak"}}"#;
    let strategy =
        structured(&answering(good)).with_check(|tree| Err(format!("no: {}", tree.name)));
    let error = error_of(once(&strategy, &request("0"), &mut ItemState::default()).await);
    assert_eq!(
        error.message(),
        "use the answer: it is refused by the caller's check"
    );
    let cause = std::error::Error::source(&error).unwrap();
    let rejection = cause.downcast_ref::<Rejection>().unwrap();
    assert_eq!(rejection.faults()[0].reason(), "no: CANARY");

    /// Takes less than its schema says.
    #[derive(Debug, JsonSchema)]
    struct Even(#[allow(dead_code, reason = "only its schema is looked at")] u64);
    impl<'de> Deserialize<'de> for Even {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let number = u64::deserialize(deserializer)?;
            match number % 2 {
                0 => Ok(Self(number)),
                _ => Err(serde::de::Error::custom(format!("{number} is odd"))),
            }
        }
    }
    let even = Structured::<Even>::new(answering("4711").direct()).unwrap();
    let error = error_of(once(&even, &request("0"), &mut ItemState::default()).await);
    assert!(
        error.message().ends_with("it does not fit the type"),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("4711"));
}

#[tokio::test(start_paused = true)]
async fn a_16_a_check_that_panics_fails_the_row_and_the_answer_counts_as_paid() {
    let asked = answering(r#"{"name":"a","age":1}"#);
    let strategy = validated(&asked).with_check(|_| panic!("a test panics on purpose"));
    let options = options(1).with_prices(prices(&["small"]));
    let outcome = run_one(Arc::new(strategy), options).await;
    let error: &Error = outcome.error().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidOutput);
    assert!(error.message().contains("panicked"), "{error}");
    assert_eq!((asked.count(), outcome.provenance.attempts), (1, 1));
    assert_eq!(outcome.provenance.cost, Money::from_dollars(200e-6));
}

#[test]
fn a_22_a_dry_run_shows_a_value_where_there_is_one() {
    let asked = Asked::saying(&["x"]);
    let error = structured(&asked).dry_run(&request("0")).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidOutput);
    let strategy = structured(&asked).with_dry_run(|request| Tree {
        name: request.custom_id.clone(),
        age: 1,
        mark: None,
        kind: Kind::Oak,
        notes: BTreeMap::new(),
    });
    let shown = strategy.dry_run(&request("0")).unwrap();
    assert!(matches!(shown.ending, Ending::Succeeded(tree) if tree.name == "0"));
    assert_eq!(asked.count(), 0);
    assert!(validated(&asked).dry_run(&request("0")).is_ok());
}

#[tokio::test]
async fn a_16_other_parts_of_the_answer_stay_beside_its_json() {
    let asked = Asked::new(|_, _| {
        let mut response = said("");
        response.content = vec![
            Part::Thinking(batchwright_core::Thinking::new("hm", None)),
            Part::Text("Sure: {\"name\":\"a\",".into()),
            Part::Text("\"age\":1}".into()),
        ];
        (Duration::ZERO, Ok(response))
    });
    let strategy = validated(&asked);
    let executed = once(&strategy, &request("0"), &mut ItemState::default()).await;
    let Ending::Succeeded(Response { content, .. }) = executed.unwrap().ending else {
        panic!()
    };
    assert_eq!(content.len(), 2);
    assert!(matches!(content[0], Part::Thinking(_)));
    assert_eq!(content[1].as_text(), Some("{\"name\":\"a\",\"age\":1}"));
}
