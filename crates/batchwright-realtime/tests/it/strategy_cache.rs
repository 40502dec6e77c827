//! Answers given again.

use crate::{
    double::{SECOND, is_complete, options},
    strategy_double::{Asked, Picky, once, prices, request, run_rows, said},
};
use async_trait::async_trait;
use batchwright_core::{
    Chat, Error, ErrorKind, FinishReason, Message, Money, Payload, Request, Response,
    ResponseFormat, Result, Sampling, Tool, Usage,
};
use batchwright_realtime::{
    AnswerCache, AnswerKey, Cached, Executed, ItemState, MemoryCache, Scope, Strategy,
};
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::time::{Instant, advance};

fn key(namespace: &str, provider: &str, model: &str, request: &Request) -> AnswerKey {
    AnswerKey::of(namespace, Scope::new(provider, model), request).unwrap()
}

#[test]
fn a_32_all_that_decides_an_answer_is_in_the_key_and_the_custom_id_is_not() {
    let base = request("0");
    let of = |request: &Request| key("", "p", "m", request);
    assert_eq!(of(&base), of(&request("1")));
    let chat = |change: &dyn Fn(&mut Chat)| {
        let mut changed = base.clone();
        let Payload::Chat(chat) = &mut changed.payload else {
            panic!()
        };
        change(chat);
        of(&changed)
    };
    let sampled = |sampling: Sampling| of(&base.clone().with_sampling(sampling));
    let extra = |json: &str| of(&base.clone().with_extra(serde_json::from_str(json).unwrap()));
    let raw = |body: &str| {
        let body = serde_json::value::RawValue::from_string(body.into()).unwrap();
        of(&Request::raw("0", "/v1", body).unwrap())
    };
    let mut other_model = base.clone();
    other_model.model = "other".into();
    let keys = [
        of(&base),
        key("n", "p", "m", &base),
        key("", "q", "m", &base),
        key("", "p", "n", &base),
        // Lengths are part of it: nothing flows from one field into the next.
        key("p", "", "m", &base),
        of(&other_model),
        sampled(Sampling::new().with_temperature(0.5).unwrap()),
        sampled(Sampling::new().with_seed(1)),
        extra(r#"{"a":1}"#),
        extra(r#"{"a":"1"}"#),
        chat(&|chat| chat.messages.push(Message::user(""))),
        chat(&|chat| chat.messages[0] = Message::system("CANARY-question")),
        chat(&|chat| chat.response_format = ResponseFormat::Json),
        chat(&|chat| chat.tools.push(Tool::new("t", None, serde_json::json!({})))),
        chat(&|chat| {
            chat.tools
                .push(Tool::new("t", Some(String::new()), serde_json::json!({})))
        }),
        of(&Request::embedding("0", "small", "CANARY-question")),
        raw(r#"{"model":"small"}"#),
        raw(r#"{"model": "small"}"#),
    ];
    assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len());
}

#[tokio::test(start_paused = true)]
async fn a_32_identical_prompts_are_answered_once_and_cost_nothing_again() {
    let asked = Asked::saying(&["fine"]);
    let cached = Arc::new(Cached::in_memory(asked.direct(), 10));
    let options = options(1).with_prices(prices(&["small"]));
    let (finished, end) = run_rows(cached, options, 20).await;
    assert!(is_complete(&end));
    assert_eq!(asked.count(), 1);
    for row in finished {
        let (first, provenance) = (row.row == 0, row.outcome.provenance);
        assert_eq!(provenance.cached, !first);
        let cost = if first {
            Money::from_dollars(200e-6)
        } else {
            Some(Money::ZERO)
        };
        assert_eq!(provenance.cost, cost);
    }
}

#[tokio::test(start_paused = true)]
async fn a_32_only_whole_successes_are_kept_and_only_for_their_time() {
    let asked = Asked::new(|_, nth| {
        let mut cut = said("half");
        cut.finish_reason = Some(FinishReason::Length);
        let mut refusal = said("no");
        refusal.finish_reason = Some(FinishReason::Refusal);
        let answer = match nth {
            1 => Err(Error::new(ErrorKind::ProviderFault, "scripted")),
            2 => Ok(cut),
            3 => Ok(refusal),
            _ => Ok(said("fine")),
        };
        (SECOND, answer)
    });
    let cache = Arc::new(MemoryCache::new(10).with_ttl(SECOND * 100));
    let cached = Cached::new(asked.direct(), cache.clone(), "test");
    let (asking, mut state) = (request("0"), ItemState::default());
    for (wait, count) in [(0, 1), (0, 2), (0, 3), (0, 4), (99, 4), (2, 5)] {
        advance(SECOND * wait).await;
        let executed = once(&cached, &asking, &mut state).await;
        assert_eq!(asked.count(), count, "after {wait} s");
        let is_again = executed.is_ok_and(|executed| executed.cached);
        assert_eq!(is_again, wait == 99);
    }
    assert_eq!(cache.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_32_the_answer_used_longest_ago_makes_room() {
    let cache = MemoryCache::new(2);
    let keys: Vec<AnswerKey> = (0..3)
        .map(|n| key(&n.to_string(), "p", "m", &request("0")))
        .collect();
    let has = async |n: usize| cache.get(&keys[n]).await.unwrap().is_some();
    let keep = async |n: usize| cache.put(&keys[n], &Executed::new(n)).await.unwrap();
    keep(0).await;
    keep(1).await;
    assert!(has(0).await);
    keep(2).await;
    assert_eq!(
        [has(0).await, has(1).await, has(2).await],
        [true, false, true]
    );
    keep(2).await;
    assert_eq!((cache.len(), has(0).await), (2, true));
}

#[tokio::test(start_paused = true)]
async fn a_32_of_identical_prompts_in_flight_one_is_sent_where_that_is_wanted() {
    let asked = Asked::new(|_, _| (SECOND, Ok(said("fine"))));
    let cached = Cached::in_memory(asked.direct(), 10).with_single_flight();
    let (finished, _) = run_rows(Arc::new(cached), options(64), 64).await;
    assert_eq!((finished.len(), asked.count()), (64, 1));
    let paid = finished.iter().filter(|row| !row.outcome.provenance.cached);
    assert_eq!(paid.count(), 1);

    let asked = Asked::new(|_, _| (SECOND, Ok(said("fine"))));
    let cached = Cached::in_memory(asked.direct(), 10);
    run_rows(Arc::new(cached), options(64), 64).await;
    assert_eq!(asked.count(), 64, "off by default");
}

#[tokio::test(start_paused = true)]
async fn a_32_where_the_one_that_is_sent_fails_the_next_one_is_sent() {
    let sent = Arc::new(AtomicUsize::new(0));
    let number = sent.clone();
    let asked = Asked::new(move |_, _| match number.fetch_add(1, SeqCst) {
        0 | 1 => (
            SECOND,
            Err(Error::new(ErrorKind::InvalidRequest, "scripted")),
        ),
        _ => (SECOND, Ok(said("fine"))),
    });
    let cached = Cached::in_memory(asked.direct(), 10).with_single_flight();
    let begun = Instant::now();
    let (finished, _) = run_rows(Arc::new(cached), options(64), 64).await;
    let failed = finished.iter().filter(|row| row.outcome.error().is_some());
    assert_eq!((failed.count(), sent.load(SeqCst)), (2, 3));
    assert!(begun.elapsed() < SECOND * 4);
}

#[tokio::test(start_paused = true)]
async fn a_32_who_has_waited_for_half_of_its_time_is_sent_alone() {
    let asked = Asked::new(|request, _| match &*request.custom_id {
        "0" => (SECOND * 3600, Ok(said("late"))),
        _ => (SECOND, Ok(said("fine"))),
    });
    let cached = Cached::in_memory(asked.direct(), 10).with_single_flight();
    let options = options(4).with_attempt_timeout(SECOND * 10);
    let (finished, _) = run_rows(Arc::new(cached), options, 4).await;
    for row in &finished[1..] {
        assert!(row.outcome.ending.is_success());
        assert_eq!(row.outcome.provenance.possibly_paid_attempts, 0);
    }
}

/// A cache that does what no cache should.
struct Broken(u8);

#[async_trait]
impl AnswerCache for Broken {
    async fn get(&self, _key: &AnswerKey) -> Result<Option<Executed>> {
        match self.0 {
            0 => Err(Error::new(ErrorKind::Storage, "read")),
            1 => panic!("a test panics on purpose"),
            _ => std::future::pending().await,
        }
    }

    async fn put(&self, _key: &AnswerKey, _answer: &Executed) -> Result<()> {
        self.get(_key).await.map(|_| ())
    }
}

#[tokio::test(start_paused = true)]
async fn a_32_a_broken_cache_is_no_cache() {
    for way in 0..3 {
        let asked = Asked::saying(&["fine"]);
        let cached = Cached::new(asked.direct(), Arc::new(Broken(way)), "");
        let (finished, end) = run_rows::<Response>(Arc::new(cached), options(4), 8).await;
        assert!(is_complete(&end));
        assert_eq!(asked.count(), 8);
        for row in finished {
            assert!(row.outcome.ending.is_success());
            assert!(row.outcome.provenance.latency.unwrap() < Duration::from_millis(2100));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_32_around_a_check_only_what_passed_is_kept() {
    let asked = Asked::saying(&["no", "fine"]);
    let picky: Arc<dyn Strategy<Output = Response>> = Arc::new(Picky(asked.direct()));
    let cached = Cached::in_memory(picky, 10);
    let mut state = ItemState::default();
    let first = once(&cached, &request("0"), &mut state)
        .await
        .err()
        .unwrap();
    assert_eq!(first.usage(), Some(&Usage::of(100, 10)));
    assert!(
        !once(&cached, &request("0"), &mut state)
            .await
            .unwrap()
            .cached
    );
    let again = once(&cached, &request("0"), &mut state).await.unwrap();
    assert_eq!((again.cached, again.usage), (true, Usage::of(0, 0)));
}
