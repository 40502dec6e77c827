//! The rhythm of asking.

use super::*;
use batchwright_core::InputRef;

#[test]
fn waits_grow_from_a_minute_to_five_and_end_with_the_time() {
    let mut rhythm = Rhythm::new(WaitOptions::default(), &RouterOptions::default());
    let mut waited = Duration::ZERO;
    let mut waits = Vec::new();
    while let Some(wait) = rhythm.next(waited, false) {
        waits.push(wait.as_secs());
        waited += wait;
    }
    assert_eq!(waits[..6], [60, 90, 135, 202, 300, 300]);
    assert_eq!(waited, Duration::from_secs(24 * 3600));
    let mut rhythm = Rhythm::new(WaitOptions::default(), &RouterOptions::default());
    rhythm.next(Duration::ZERO, false);
    let wait = rhythm.next(Duration::from_secs(60), true);
    assert_eq!(wait, Some(Duration::from_secs(60)), "an end begins anew");
}

#[test]
fn an_error_names_the_late_ones_and_says_that_they_go_on() {
    let late = vec![BatchHandle::new("openai", "b7", InputRef::default())];
    let mut error = WaitError {
        ended: Vec::new(),
        late,
        cause: None,
    };
    let text = "waited long enough; not ended and going on at their providers: b7 at openai";
    assert_eq!(error.to_string(), text);
    assert_eq!(Error::from(error.clone()).kind(), ErrorKind::Timeout);
    error.cause = Some(Error::new(ErrorKind::Unauthenticated, "no such key"));
    assert_eq!(Error::from(error).kind(), ErrorKind::Unauthenticated);
}
