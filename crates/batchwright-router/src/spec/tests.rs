//! How requests are cut.

use super::*;
use crate::fake::{Fake, ask};
use batchwright_core::{Message, Sampling};
use proptest::prelude::*;

fn plan(batches: &[BatchRequest], split: Option<Split>, queue: Option<u64>) -> Result<Vec<Part>> {
    let fake = Fake::new("fake") as Arc<dyn BatchProvider>;
    let providers = BTreeMap::from([("fake".to_owned(), fake)]);
    let mut prices = PriceTable::default();
    let price = r#"{"fake:model-a": {"realtime": {"input": 2.0, "output": 2.0}, "batch": {"input": 1.0, "output": 1.0},
                   "as_of": "2026-11-22", "source": "a test"}}"#;
    prices.overlay(price)?;
    let rules = Rules {
        providers: &providers,
        unique: UniqueIds::Global,
        split,
        queue_tokens: &|_| queue,
        prices: &prices,
    };
    rules.plan(batches)
}

fn request(id: usize, bytes: usize) -> Request {
    let text = "x".repeat(bytes);
    Request::chat(format!("{id}"), "model-a", [Message::user(text)])
}

fn sizes(parts: &[Part]) -> Vec<usize> {
    parts.iter().map(|part| part.rows.len()).collect()
}

fn batch(requests: Vec<Request>) -> [BatchRequest; 1] {
    [BatchRequest::new("fake", requests)]
}

#[test]
fn each_bound_cuts() {
    let many = batch((0..250).map(|row| ask(&row.to_string())).collect());
    // The provider takes 100 requests and 4,000 bytes.
    assert!(plan(&many, None, None).is_err());
    let parts = plan(&many, Some(Split::default()), None).unwrap();
    assert!(parts.len() > 2 && parts.iter().all(|part| part.bytes <= 4000));
    let by_rows = plan(&many, Some(Split::default().with_requests(30)), None).unwrap();
    assert_eq!(sizes(&by_rows), [30, 30, 30, 30, 30, 30, 30, 30, 10]);
    let by_bytes = plan(&many, Some(Split::default().with_bytes(500)), None).unwrap();
    assert!(by_bytes.iter().all(|part| part.bytes <= 500));

    // 40 bytes are 10 tokens.
    let ten = batch((0..10).map(|row| request(row, 40)).collect());
    let by_tokens = plan(&ten, Some(Split::default().with_tokens(35)), None).unwrap();
    assert_eq!(sizes(&by_tokens), [3, 3, 3, 1]);
    let by_queue = plan(&ten, Some(Split::default()), Some(25)).unwrap();
    assert_eq!(sizes(&by_queue), [2, 2, 2, 2, 2]);
    // An estimate refuses nothing.
    let alone = plan(&ten, Some(Split::default().with_tokens(5)), None).unwrap();
    assert_eq!(sizes(&alone), [1; 10]);
}

#[test]
fn a_cap_on_money_bounds_what_one_create_can_cost() {
    let sampling = Sampling::new().with_max_output_tokens(90).unwrap();
    let bounded = |row| request(row, 40).with_sampling(sampling.clone());
    let ten = batch((0..10).map(bounded).collect());
    // 10 tokens in and 90 out at a dollar a million: 100 millionths each.
    let cap = |millionths: f64| {
        let cost = Money::from_dollars(millionths / 1e6).unwrap();
        Some(Split::default().with_cost(cost))
    };
    assert_eq!(sizes(&plan(&ten, cap(400.0), None).unwrap()), [4, 4, 2]);
    let error = plan(&ten, cap(99.0), None).map(|_| ()).unwrap_err();
    assert!(error.message().contains("\"0\" alone may cost"), "{error}");
    let unbounded = batch(vec![request(0, 40)]);
    let error = plan(&unbounded, cap(400.0), None).map(|_| ()).unwrap_err();
    assert!(error.message().contains("longest answer"), "{error}");
    let mut unpriced = bounded(0);
    unpriced.model = "model-b".to_owned();
    let error = plan(&batch(vec![unpriced]), cap(400.0), None)
        .map(|_| ())
        .unwrap_err();
    assert!(
        error.message().contains("no price of \"model-b\""),
        "{error}"
    );
}

#[test]
fn f_174_f_180_models_and_endpoints_are_cut_apart_and_a_request_too_large_is_named() {
    let mut mixed: Vec<Request> = (0..6).map(|row| ask(&row.to_string())).collect();
    mixed[1].model = "model-b".to_owned();
    mixed[4].model = "model-b".to_owned();
    mixed.push(Request::embedding("6", "model-a", "text"));
    let parts = plan(&batch(mixed), Some(Split::default()), None).unwrap();
    let rows: Vec<&[usize]> = parts.iter().map(|part| &part.rows[..]).collect();
    assert_eq!(rows, [&[0, 2, 3, 5][..], &[1, 4], &[6]]);
    assert_eq!(
        (&*parts[1].model, &*parts[2].endpoint),
        ("model-b", "/embed")
    );
    let large = batch(vec![request(0, 10), request(1, 5000)]);
    let error = plan(&large, Some(Split::default()), None)
        .map(|_| ())
        .unwrap_err();
    assert!(
        error.message().starts_with("batch 1: \"1\" alone is"),
        "{error}"
    );
}

proptest! {
    /// Every row is in one part, in order, and no part is over a bound.
    #[test]
    fn cutting_loses_and_doubles_no_row(
        lengths in proptest::collection::vec((0..300usize, 0..3usize), 1..120),
        rows in 1..50u64, bytes in 400..5000u64, tokens in 1..200u64,
    ) {
        let requests: Vec<Request> = lengths.iter().enumerate().map(|(row, (length, model))| {
            let mut request = request(row, *length);
            request.model = format!("model-{model}");
            request
        }).collect();
        let split = Split::default().with_requests(rows).with_bytes(bytes).with_tokens(tokens);
        let parts = plan(&batch(requests.clone()), Some(split), None).unwrap();
        let mut seen: Vec<usize> = parts.iter().flat_map(|part| part.rows.clone()).collect();
        for part in &parts {
            prop_assert!(part.rows.is_sorted());
            prop_assert!(part.rows.len() as u64 <= rows && part.bytes <= bytes.min(4000));
            prop_assert!(part.tokens <= tokens || part.rows.len() == 1);
            prop_assert!(part.rows.iter().all(|row| requests[*row].model == part.model));
        }
        prop_assert!(parts.windows(2).all(|pair| pair[0].rows[0] < pair[1].rows[0]));
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..requests.len()).collect::<Vec<_>>());
    }
}
