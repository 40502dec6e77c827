//! Ladders and adapted requests.

use crate::{
    double::options,
    strategy_double::{Asked, Picky, prices, request, run_one, said, turns},
};
use batchwright_core::{
    Error, ErrorKind, Message, Money, Payload, Request, Result, RetryPolicy, Usage,
};
use batchwright_realtime::{Adapted, Climb, ItemState, Ladder, Rung, Strategy};
use std::{sync::Arc, time::Duration};

const SOON: Duration = Duration::from_millis(10);

fn retry(invalid: u32) -> RetryPolicy {
    let mut retry = RetryPolicy::default();
    retry.max_invalid_retries = invalid;
    retry
}

fn rungs(asked: &Asked) -> Vec<(String, Option<f64>)> {
    let rung = |request: &Request| (request.model.clone(), request.sampling.temperature());
    asked.seen("0").iter().map(rung).collect()
}

#[tokio::test(start_paused = true)]
async fn a_40_the_temperature_rises_by_attempt_and_stays_at_the_last() {
    let asked = Asked::saying(&["no", "no", "no", "no", "fine"]);
    let ladder = Ladder::temperatures(asked.direct(), Ladder::<()>::TEMPERATURES).unwrap();
    let outcome = run_one(
        Arc::new(Picky(Arc::new(ladder))),
        options(1).with_retry(retry(9)),
    )
    .await;
    assert!(outcome.ending.is_success());
    let temperatures: Vec<f64> = rungs(&asked)
        .into_iter()
        .filter_map(|rung| rung.1)
        .collect();
    assert_eq!(temperatures, [0.0, 0.5, 1.0, 1.0, 1.0]);
}

#[tokio::test(start_paused = true)]
async fn a_42_ax_101_only_answers_that_do_not_fit_are_worth_a_better_model() {
    let script = [
        Err(ErrorKind::RateLimited),
        Err(ErrorKind::Connect),
        Err(ErrorKind::Overloaded),
        Err(ErrorKind::Timeout),
        Ok("no"),
        Err(ErrorKind::RateLimited),
        Ok("no"),
        Ok("no"),
        Ok("fine"),
    ];
    let asked = Asked::new(move |_, nth| {
        let answer = script[nth - 1];
        (
            SOON,
            answer
                .map(said)
                .map_err(|kind| Error::new(kind, "scripted")),
        )
    });
    let ladder = Ladder::models(asked.direct(), ["small", "medium", "large"]).unwrap();
    let options = options(1)
        .with_retry(retry(9))
        .with_prices(prices(&["small", "medium", "large"]));
    let outcome = run_one(Arc::new(Picky(Arc::new(ladder))), options).await;
    assert!(outcome.ending.is_success());
    let models: Vec<String> = rungs(&asked).into_iter().map(|rung| rung.0).collect();
    let expected = [
        "small", "small", "small", "small", "small", "medium", "medium", "large", "large",
    ];
    assert_eq!(models, expected);
    // The outcome names the model that answered, and has the cost of all that did.
    let provenance = outcome.provenance;
    assert_eq!(provenance.model.as_deref(), Some("large"));
    assert_eq!(provenance.discarded_usage, Usage::of(300, 30));
    assert_eq!(provenance.cost, Money::from_dollars(4.0 * 200e-6));
}

#[tokio::test(start_paused = true)]
async fn a_43_ax_101_model_and_temperature_climb_together_and_not_for_a_busy_endpoint() {
    let asked = Asked::new(|_, nth| {
        let answer = match nth {
            1 | 3 => Err(Error::new(ErrorKind::RateLimited, "scripted")),
            2 => Err(Error::new(ErrorKind::ProviderFault, "scripted")),
            4 | 5 => Ok(said("no")),
            _ => Ok(said("fine")),
        };
        (SOON, answer)
    });
    let rung =
        |model: &str, temperature| Rung::of_model(model).with_temperature(temperature).unwrap();
    let ladder = Ladder::new(
        asked.direct(),
        [rung("a", 0.0), rung("a", 0.5), rung("b", 0.25)],
    );
    let picky = Picky(Arc::new(ladder.unwrap()));
    let outcome = run_one(Arc::new(picky), options(1)).await;
    assert!(outcome.ending.is_success());
    let expected = [
        ("a", 0.0),
        ("a", 0.0),
        ("a", 0.5),
        ("a", 0.5),
        ("b", 0.25),
        ("b", 0.25),
    ];
    let expected = expected.map(|(model, temperature)| (model.to_owned(), Some(temperature)));
    assert_eq!(rungs(&asked), expected);
}

#[tokio::test(start_paused = true)]
async fn a_42_the_scope_names_the_next_model_before_the_call_and_two_ladders_keep_apart() {
    let asked = Asked::saying(&["no"]);
    let models = Ladder::models(asked.direct(), ["small", "large"]).unwrap();
    let models: Arc<dyn Strategy<Output = _>> = Arc::new(models);
    let both = Ladder::temperatures(models, [0.0, 1.0]).unwrap();
    let (asking, mut state) = (request("0"), ItemState::default());
    assert_eq!(both.scope(&asking, &mut state).model, "small");
    let fault = Error::new(ErrorKind::ProviderFault, "x");
    let misfit = Error::new(ErrorKind::InvalidOutput, "x");
    for (error, model) in [(fault, "small"), (misfit, "large")] {
        let mut attempt = batchwright_realtime::Attempt::new(1, SOON, &mut state);
        both.on_error(&asking, &error, &mut attempt).await;
        assert_eq!(both.scope(&asking, &mut state).model, model);
        crate::strategy_double::once(&both, &asking, &mut state)
            .await
            .unwrap();
        assert_eq!(
            rungs(&asked).last().unwrap(),
            &(model.to_owned(), Some(1.0))
        );
    }
    let other = &mut ItemState::default();
    assert_eq!(both.scope(&asking, other).model, "small", "another item");
}

#[test]
fn a_40_a_ladder_that_cannot_be_climbed_is_refused() {
    let direct = || Asked::saying(&["fine"]).direct();
    let kind = |ladder: Result<Ladder>| ladder.err().unwrap().kind();
    let none: [f64; 0] = [];
    assert_eq!(
        kind(Ladder::temperatures(direct(), none)),
        ErrorKind::ConfigInvalid
    );
    assert_eq!(
        kind(Ladder::models(direct(), [""])),
        ErrorKind::ConfigInvalid
    );
    for temperature in [2.5, -0.1, f64::NAN] {
        assert_eq!(
            kind(Ladder::temperatures(direct(), [temperature])),
            ErrorKind::InvalidRequest
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_40_a_raw_body_is_not_sent_as_if_it_climbed() {
    let asked = Asked::saying(&["fine"]);
    let ladder = Ladder::temperatures(asked.direct(), [0.0]).unwrap();
    let body = serde_json::value::RawValue::from_string(r#"{"model":"small"}"#.into()).unwrap();
    let raw = Request::raw("0", "/v1/chat/completions", body).unwrap();
    let error = crate::strategy_double::error_of(
        crate::strategy_double::once(&ladder, &raw, &mut ItemState::default()).await,
    );
    assert_eq!((error.kind(), asked.count()), (ErrorKind::Unsupported, 0));
    // The same model is nothing to change.
    let ladder = Ladder::models(asked.direct(), ["small"]).unwrap();
    let sent = crate::strategy_double::once(&ladder, &raw, &mut ItemState::default()).await;
    assert!(sent.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_44_the_next_attempt_asks_what_a_function_of_the_error_says() {
    let asked = Asked::saying(&["no", "no", "fine"]);
    let picky: Arc<dyn Strategy<Output = _>> = Arc::new(Picky(asked.direct()));
    let adapted = Adapted::new(picky, |request, error, attempt| {
        let mut changed = request.clone();
        changed.custom_id = "stolen".to_owned();
        changed.model = format!("model-{attempt}");
        let Payload::Chat(chat) = &mut changed.payload else {
            return None;
        };
        chat.messages
            .push(Message::user(format!("not {}", error.message())));
        Some(changed)
    });
    let outcome = run_one(Arc::new(adapted), options(1)).await;
    assert!(outcome.ending.is_success());
    // What it changes does not pile up, the scope follows, and the row stays the row.
    let asked = asked.seen("0");
    assert_eq!(
        asked
            .iter()
            .map(|request| turns(request).len())
            .collect::<Vec<_>>(),
        [1, 2, 2]
    );
    let models: Vec<&str> = asked.iter().map(|request| &*request.model).collect();
    assert_eq!(models, ["small", "model-1", "model-2"]);
    assert_eq!(outcome.provenance.model.as_deref(), Some("model-2"));
    assert_eq!(turns(&asked[1])[1].1, "not like the answer");
}

#[tokio::test(start_paused = true)]
async fn a_44_a_function_that_panics_or_has_nothing_to_say_changes_nothing() {
    for panics in [true, false] {
        let asked = Asked::saying(&["no", "fine"]);
        let picky: Arc<dyn Strategy<Output = _>> = Arc::new(Picky(asked.direct()));
        let adapted = Adapted::new(picky, move |_, _, _| {
            assert!(!panics, "a test panics on purpose");
            None
        });
        let outcome = run_one(Arc::new(adapted), options(1)).await;
        assert!(outcome.ending.is_success());
        assert_eq!(turns(&asked.seen("0")[1]).len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_40_steps_may_be_counted_otherwise() {
    let asked = Asked::new(|_, nth| match nth {
        1 => (SOON, Err(Error::new(ErrorKind::ProviderFault, "scripted"))),
        _ => (SOON, Ok(said("fine"))),
    });
    let ladder = Ladder::models(asked.direct(), ["small", "large"]).unwrap();
    let ladder = ladder.with_climb(Climb::EveryFailure);
    assert!(
        run_one(Arc::new(ladder), options(1))
            .await
            .ending
            .is_success()
    );
    assert_eq!(rungs(&asked)[1].0, "large");
}
