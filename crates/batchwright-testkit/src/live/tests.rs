//! An emulator stands where the vendor would: what is spent there is what would have been.

use super::*;
use crate::{Case, Made, Subject, cases};
use async_trait::async_trait;
use batchwright_core::{
    CallOptions, Capability, ChatProvider, ErrorKind, FinishReason, Payload, Response, Result,
    RetryClass, Usage,
};
use batchwright_emulator::{Emulator, EmulatorConfig, Face};
use batchwright_http::{Asked, BaseUrl, Call, ErrorTable, HttpClient, Secret, header};
use serde_json::{Value, json};

const MODEL: &str = "gpt-4o-mini";

const ERRORS: ErrorTable =
    ErrorTable::new(&[("model_not_found", ErrorKind::NotFound, RetryClass::JobStop)]);

/// As much of OpenAI's direct calls as the cases need.
struct Direct {
    http: HttpClient,
    base: BaseUrl,
    key: Secret,
    capability: Capability,
}

impl Direct {
    fn new(place: &Place) -> Result<Self> {
        let mut capability = Capability::default();
        capability.realtime_endpoints = vec!["chat".to_owned()];
        capability.json_schema = true;
        Ok(Self {
            http: HttpClient::builder().build()?,
            base: BaseUrl::parse(&place.base_url, false)?,
            key: Secret::new(place.key.clone()),
            capability,
        })
    }
}

#[async_trait]
impl ChatProvider for Direct {
    fn name(&self) -> &str {
        "openai"
    }

    fn capability(&self) -> &Capability {
        &self.capability
    }

    async fn complete(&self, request: &Request, _: &CallOptions) -> Result<Response> {
        let Payload::Chat(chat) = &request.payload else {
            panic!("the cases ask by chat");
        };
        let text = chat.messages[0].content[0].as_text().unwrap();
        let mut body = json!({"model": request.model,
            "max_completion_tokens": request.sampling.max_output_tokens(),
            "messages": [{"role": "user", "content": text}]});
        if let batchwright_core::ResponseFormat::JsonSchema {
            name,
            schema,
            strict,
        } = &chat.response_format
        {
            body["response_format"] = json!({"type": "json_schema",
                "json_schema": {"name": name, "schema": schema, "strict": strict}});
        }
        let call = Call::post("ask", self.base.join("chat/completions")?)
            .secret(header::AUTHORIZATION, "Bearer ", &self.key)?
            .json(body.to_string());
        let reply = self.http.send(call).await?;
        if !reply.is_success() {
            return Err(ERRORS.of_reply(Asked::Inference, &reply, &[&self.key]));
        }
        let answer: Value = serde_json::from_slice(&reply.body).unwrap();
        let mut response =
            Response::from_text(answer["choices"][0]["message"]["content"].as_str().unwrap());
        let count = |name: &str| answer["usage"][name].as_u64().unwrap();
        response.usage = Usage::of(count("prompt_tokens"), count("completion_tokens"));
        response.model = Some(MODEL.to_owned());
        response.finish_reason = Some(FinishReason::Stop);
        response.raw = serde_json::from_slice(&reply.body).unwrap();
        Ok(response)
    }
}

/// An account at `base_url` in an environment of these variables.
fn account(base_url: &str, variables: &'static [(&str, &str)]) -> Live {
    Live::new("openai", "OPENAI_API_KEY", base_url).with_variables(move |name| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    })
}

fn subject(live: Live, model: &'static str) -> Subject {
    Subject::live("live", live, model, |place| {
        Ok(Made::realtime(Direct::new(place)?))
    })
}

fn offline(variables: &'static [(&str, &str)], model: &'static str) -> Subject {
    subject(account("http://127.0.0.1:1", variables), model)
}

fn case(name: &str) -> Case {
    let found = cases().into_iter().find(|case| case.name == name);
    found.expect("a case of this name")
}

const ANSWER: &str = "realtime::an_answer_to_the_prompt";
const SCHEMA: &str = "realtime::a_schema_is_obeyed";
const KEY: (&str, &str) = ("OPENAI_API_KEY", "k-live");

#[test]
fn nothing_runs_unless_all_is_said() {
    let refused: [(&'static [(&str, &str)], &str); 7] = [
        (&[KEY], "BATCHWRIGHT_LIVE does not name openai"),
        (
            &[KEY, (WHO_VAR, "anthropic"), (CAP_VAR, "1")],
            "does not name",
        ),
        (
            &[KEY, (WHO_VAR, "openai")],
            "BATCHWRIGHT_LIVE_MAX_USD is not set",
        ),
        (&[KEY, (WHO_VAR, "openai"), (CAP_VAR, " ")], "is not set"),
        (
            &[KEY, (WHO_VAR, "openai"), (CAP_VAR, "a lot")],
            "no sum of dollars",
        ),
        (
            &[KEY, (WHO_VAR, "openai"), (CAP_VAR, "-1")],
            "no sum of dollars",
        ),
        (
            &[(WHO_VAR, "openai"), (CAP_VAR, "1")],
            "OPENAI_API_KEY is not set",
        ),
    ];
    for (variables, part) in refused {
        let subject = offline(variables, MODEL);
        for case in cases() {
            let reason = case.ignored(&subject).expect("nothing runs");
            let never = reason == "not for a live account";
            assert!(never || reason.contains(part), "{}: {reason}", case.name);
            assert!(!reason.contains("k-live"), "a key shows nowhere");
        }
    }
    let subject = offline(&[KEY, (WHO_VAR, "mistral, openai"), (CAP_VAR, "1")], MODEL);
    assert_eq!(case(ANSWER).ignored(&subject), None);
}

#[test]
fn an_unknown_price_is_not_run() {
    let subject = offline(&[KEY, (WHO_VAR, "openai"), (CAP_VAR, "1")], "gpt-99");
    let reason = case(ANSWER).ignored(&subject).unwrap();
    assert_eq!(reason, "the price of openai:gpt-99 is unknown");
}

#[test]
fn a_case_of_faults_or_time_is_not_for_a_live_account() {
    let subject = offline(&[KEY, (WHO_VAR, "openai"), (CAP_VAR, "1")], MODEL);
    for name in [
        "realtime::failures_keep_their_class",
        "realtime::f_001_f_013_a_full_minute_says_how_long_to_wait",
        "life::every_row_gets_its_own",
        "secrets::f_192_f_203_the_key_shows_in_no_error",
    ] {
        let reason = case(name).ignored(&subject);
        assert_eq!(reason.as_deref(), Some("not for a live account"), "{name}");
    }
}

#[test]
fn the_sum_stops_before_the_cap() {
    let each = account("", &[])
        .bound(Spend::calls(1).unwrap(), "openai", MODEL)
        .unwrap();
    // 1024 tokens at 0.15 and 256 at 0.60 dollars for a million.
    assert_eq!(each, Money::from_picodollars(307_200_000));
    let runs = |cap: &'static str| {
        let variables = vec![KEY, (WHO_VAR, "openai"), (CAP_VAR, cap)];
        let subject = offline(variables.leak(), MODEL);
        let free_to_run = |case: &Case| case.ignored(&subject).is_none();
        cases().iter().filter(|case| free_to_run(case)).count()
    };
    assert_eq!(runs("0"), 0);
    assert_eq!(runs("0.0003"), 0);
    assert_eq!(runs("0.0003072"), 1);
    assert_eq!(runs("0.0007"), 2);
    assert_eq!(runs("0.10"), 3);
    let variables = &[KEY, (WHO_VAR, "openai"), (CAP_VAR, "0.0004")];
    let reason = case(SCHEMA).ignored(&offline(variables, MODEL)).unwrap();
    assert!(reason.contains(CAP_VAR), "{reason}");
}

/// Dear tokens are reckoned with, whichever they turn out to be.
#[test]
fn the_bound_is_the_dearest_way() {
    let mut prices = PriceTable::default();
    let json = r#"{"openai:m":{"realtime":{"input":1,"output":2,"cache_write":5,"reasoning":4},
        "as_of":"2026-11-01","source":"https://example.org"}}"#;
    prices.overlay(json).unwrap();
    let live = account("", &[]).with_prices(prices);
    let bound = live.bound(Spend::calls(2).unwrap(), "openai", "m").unwrap();
    let one = 1024 * 5 + 256 * 4;
    assert_eq!(bound, Money::from_picodollars(2 * one * 1_000_000));
    assert!(live.bound(Spend::rows(1).unwrap(), "openai", "m").is_err());
    assert_eq!(
        live.bound(Spend::FREE.unwrap(), "x", "y").unwrap(),
        Money::ZERO
    );
}

#[tokio::test]
async fn what_runs_costs_no_more_than_was_reckoned() {
    let emulator = Emulator::start(EmulatorConfig::default()).await.unwrap();
    let variables = &[KEY, (WHO_VAR, "openai"), (CAP_VAR, "0.10")];
    let live = account(&emulator.base_url(Face::OpenAi), variables);
    let subject = subject(live.clone(), MODEL);
    let mut bound = Money::ZERO;
    let mut requests = 0;
    for case in cases() {
        if case.ignored(&subject).is_none() {
            case.run(&subject).await;
            let spend = case.spend().unwrap();
            bound = bound + live.bound(spend, "openai", MODEL).unwrap();
            requests += spend.requests;
        }
    }
    assert_eq!(
        emulator.calls("POST", "/openai/v1/chat/completions"),
        requests
    );
    let bill = emulator.invoice().await.unwrap();
    assert_eq!(bill.len(), 2, "a model nobody has is not billed");
    let billed: f64 = bill.iter().map(|line| line.price_usd).sum();
    assert!(billed > 0.0 && billed < bound.as_dollars(), "{billed}");
}

#[tokio::test]
#[should_panic(expected = "buys more than it declares")]
async fn a_case_cannot_buy_more_than_it_declares() {
    let emulator = Emulator::start(EmulatorConfig::default()).await.unwrap();
    let live = account(&emulator.base_url(Face::OpenAi), &[KEY]);
    let world = crate::world::World::new(&subject(live, MODEL))
        .await
        .allow(1);
    world.ask(&world.chat("x")).await.unwrap();
    let _ = world.ask(&world.chat("x")).await;
}

#[test]
#[should_panic(expected = "bounds its answer")]
fn a_request_without_a_bound_is_not_sent() {
    assert_bounded(&Request::chat("row", MODEL, []));
}
