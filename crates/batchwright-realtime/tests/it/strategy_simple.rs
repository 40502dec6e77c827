//! Functions as strategies, and measured ones.

use crate::{
    double::{SECOND, is_complete, options},
    strategy_double::{Asked, error_of, once, request, run_one, run_rows, said},
};
use batchwright_core::{Ending, Error, ErrorKind, Request, Response, Usage};
use batchwright_realtime::{Blocking, Closure, Executed, ItemState, Strategy, Timed};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

#[tokio::test(start_paused = true)]
async fn a_28_ax_296_an_async_function_is_a_strategy_of_any_output() {
    let closure = Closure::new("acme", |request: Request, turn| async move {
        match turn.attempt {
            1 => Err(Error::new(ErrorKind::RateLimited, "busy")),
            _ => Ok(Executed::new((request.custom_id, turn.attempt)).with_usage(Usage::of(3, 4))),
        }
    });
    let outcome = run_one(Arc::new(closure), options(1)).await;
    assert_eq!(outcome.provenance.provider.as_deref(), Some("acme"));
    assert_eq!(outcome.provenance.model.as_deref(), Some("small"));
    assert!(matches!(outcome.ending, Ending::Succeeded((id, 2)) if id == "0"));
}

#[tokio::test(start_paused = true)]
async fn a_28_ax_98_a_function_has_the_items_state_across_attempts() {
    let closure = Closure::with_state("acme", |_request, attempt| {
        Box::pin(async move {
            let tries: &mut u32 = attempt.state.get_mut();
            *tries += 1;
            match *tries {
                3 => Ok(Executed::new(*tries)),
                _ => Err(Error::new(ErrorKind::Overloaded, "busy")),
            }
        })
    });
    let (finished, end) = run_rows(Arc::new(closure), options(8), 40).await;
    assert!(is_complete(&end));
    for row in finished {
        assert!(matches!(row.outcome.ending, Ending::Succeeded(3)));
        assert_eq!(row.outcome.provenance.attempts, 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_28_functions_that_panic_or_hang_fail_their_row_alone() {
    let closure = Closure::new("acme", |request: Request, _| async move {
        match &*request.custom_id {
            "1" => panic!("a test panics on purpose"),
            "2" => std::future::pending().await,
            _ => Ok(Executed::from(said("fine"))),
        }
    });
    let options = options(4).with_attempt_timeout(SECOND);
    let (finished, end) = run_rows(Arc::new(closure), options, 6).await;
    assert!(is_complete(&end));
    let kinds: Vec<_> = finished
        .iter()
        .map(|row| row.outcome.error().map(Error::kind))
        .collect();
    let expected = [
        None,
        Some(ErrorKind::Unexpected),
        Some(ErrorKind::Timeout),
        None,
        None,
        None,
    ];
    assert_eq!(kinds, expected);
}

#[tokio::test]
async fn a_30_blocking_calls_run_beside_the_loop_and_never_more_than_allowed() {
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak) = (open.clone(), most.clone());
    let blocking = Blocking::new("acme", 3, move |request, turn| {
        peak.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
        std::thread::sleep(Duration::from_millis(5));
        now.fetch_sub(1, SeqCst);
        match (&*request.custom_id, turn.attempt) {
            ("7", _) => panic!("a test panics on purpose"),
            ("8", 1) => Err(Error::new(ErrorKind::Overloaded, "busy")),
            _ => Ok(Executed::new(request.custom_id)),
        }
    });
    let (finished, end) = run_rows(Arc::new(blocking), options(16), 30).await;
    assert!(is_complete(&end));
    for row in finished {
        match row.row {
            7 => assert_eq!(row.outcome.error().unwrap().kind(), ErrorKind::Unexpected),
            number => {
                assert!(
                    matches!(row.outcome.ending, Ending::Succeeded(id) if id == number.to_string())
                );
            }
        }
    }
    assert!(most.load(SeqCst) <= 3, "{most:?}");
    assert_eq!(open.load(SeqCst), 0);
}

#[tokio::test]
async fn a_30_ax_42_a_call_that_was_given_up_keeps_its_place_and_cleanup_waits_for_it() {
    let (go, gate) = mpsc::channel::<()>();
    let (began, begun) = tokio::sync::mpsc::channel(1);
    let (gate, ended) = (Mutex::new(gate), Arc::new(AtomicUsize::new(0)));
    let end = ended.clone();
    let blocking = Arc::new(Blocking::new("acme", 1, move |_, _| {
        began.blocking_send(()).unwrap();
        gate.lock().unwrap().recv().unwrap();
        end.fetch_add(1, SeqCst);
        Ok(Executed::from(said("fine")))
    }));
    let mut begun = begun;
    let given_up = async { once(&*blocking, &request("0"), &mut ItemState::default()).await };
    let first = tokio::select! {
        _ = given_up => panic!("nobody opened the gate"),
        first = begun.recv() => first,
    };
    assert!(first.is_some(), "it was given up after it began");
    // The place is taken: what waits for it was never sent.
    let (asking, mut state) = (request("1"), ItemState::default());
    let mut attempt = batchwright_realtime::Attempt::new(1, Duration::from_millis(20), &mut state);
    let error = error_of(blocking.execute(&asking, &mut attempt).await);
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.is_retryable() && !error.is_ambiguous());
    let mut cleanup = Box::pin(blocking.cleanup());
    assert!(futures::poll!(&mut cleanup).is_pending());
    go.send(()).unwrap();
    cleanup.await;
    assert_eq!(ended.load(SeqCst), 1);
    // And then there is another run.
    go.send(()).unwrap();
    let again = once(&*blocking, &request("2"), &mut ItemState::default()).await;
    assert!(again.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_33_attempts_are_measured_by_how_they_end() {
    let asked = Asked::new(|request, nth| match &*request.custom_id {
        "0" => (SECOND * 600, Ok(said("late"))),
        "1" if nth == 1 => (SECOND * 2, Err(Error::new(ErrorKind::Overloaded, "busy"))),
        _ => (SECOND, Ok(said("fine"))),
    });
    let timed = Arc::new(Timed::new(asked.direct()));
    assert_eq!(
        (timed.snapshot().mean(), timed.snapshot().quantile(0.5)),
        (None, None)
    );
    let options = options(100).with_attempt_timeout(SECOND * 8);
    let (_, end) = run_rows::<Response>(timed.clone(), options, 100).await;
    assert!(is_complete(&end));
    let seen = timed.snapshot();
    // A timeout may have been paid, so it is tried once more.
    assert_eq!((seen.answered, seen.failed, seen.abandoned), (99, 1, 2));
    let close = |told: Duration, exact: Duration| {
        assert!(
            told >= exact && told <= exact.mul_f64(1.07),
            "{told:?} for {exact:?}"
        );
    };
    close(seen.min, SECOND);
    close(seen.quantile(0.5).unwrap(), SECOND);
    close(seen.quantile(0.98).unwrap(), SECOND * 2);
    // The pool waits one second for a strategy to say why it was late.
    close(seen.max, SECOND * 9);
    assert_eq!(seen.quantile(1.0), Some(seen.max));
    close(seen.total, SECOND * (99 + 2 + 18));
}
